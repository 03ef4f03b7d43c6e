"""Operators without a kind of their own against torch: values of the view, and growth."""

import pytest

from tests.rules.lowered_table import LOWERED
from tests.rules.op_table import Between, example
from tests.rules.torch_growing import check_evaluation, grow_module, traced


@pytest.mark.parametrize("name", LOWERED)
def test_row(name):
    row = LOWERED[name]
    t = traced(Between(row), example())
    natives = {op.origin.removeprefix("aten.").split(".")[0] for op in t.graph.ops}
    own = name.split(",")[0].lstrip("_")
    assert any(own in native for native in natives), f"{name} is not in {natives}"
    if not row.pins:
        assert "opaque" not in {op.kind for op in t.graph.ops}
        check_evaluation(t)
    got = grow_module(t)
    if row.pins:
        assert not got.accepted
        assert any(row.pins in reason for reason in got.pinned), got.pinned
        return
    refused = [why for why in got.refused if why.startswith("graph")]
    assert got.accepted
    assert not refused
