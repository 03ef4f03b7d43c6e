"""Every kind against torch: the view's shape and values, and growth through the torch carrier."""

import pytest

from meristem.rewrite.registry import kinds
from tests.rules.op_table import ELSEWHERE, TABLE, Between, example
from tests.rules.torch_growing import check_evaluation, grow_module, traced


def test_every_kind_has_a_row():
    assert set(TABLE) | set(ELSEWHERE) == set(kinds())


@pytest.mark.parametrize("kind", TABLE)
def test_row(kind):
    row = TABLE[kind]
    t = traced(Between(row), example())
    assert kind in {op.kind for op in t.graph.ops}, f"nothing lowers to {kind}"
    if kind != "opaque":
        check_evaluation(t)
    got = grow_module(t)
    if row.pins:
        assert not got.accepted
        assert any(row.pins in reason for reason in got.pinned), got.pinned
        return
    refused = [why for why in got.refused if why.startswith("graph")]
    if row.refuses:
        assert refused
        assert all(row.refuses in why for why in refused), refused
    else:
        assert got.accepted
        assert not refused
