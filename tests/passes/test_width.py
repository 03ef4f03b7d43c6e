"""Every other width: axes without a name of their own."""

import pytest

import meristem
from meristem.passes import WIDTH_PASSES
from meristem.rewrite.axes import Pin, Term, cat, pin, prod
from meristem.rewrite.dimensions import KINDS
from meristem.rewrite.errors import SizeError
from tests.passes.cases import (
    LIMIT,
    dimension,
    grow_and_measure,
    reached,
    sizes_of,
    solve,
    traced,
    wish,
)


def test_every_kind_but_layers_has_a_pass():
    assert set(WIDTH_PASSES) == set(KINDS) - {"layers"}


@pytest.mark.parametrize("kind", ["channels", "rank", "vocabulary", "positions", "width"])
@pytest.mark.parametrize(("target", "size"), [(12, 12), (13, 13), ("+4", 16), ("x1.5", 18)])
def test_targets(kind, target, size):
    assert reached(kind, 12, target) == size


def test_the_last_free_piece_grows():
    first, last = Term(4), Term(8)
    d = dimension("width", cat([first, last]))
    assert solve(wish(d, 15)) == ({last: 11}, {d.name: 15})
    pin(last, Pin("it is an axis of the output y", boundary=True))
    assert solve(wish(d, 15)) == ({first: 7}, {d.name: 15})
    assert solve(wish(d, 15), lifted=True) == ({last: 11}, {d.name: 15})


def test_a_product_grows_by_whole_rows():
    rows, columns = Term(4), Term(5)
    pin(columns, Pin("slides over it"))
    d = dimension("channels", prod([rows, columns]))
    assert solve(wish(d, 30)) == ({rows: 6}, {d.name: 30})
    assert solve(wish(d, "x1.4"))[1] == {d.name: 30}  # 28 is rounded
    with pytest.raises(SizeError, match=r"grows by multiples of 5; possible near it: 30, 35"):
        solve(wish(d, 32))


def test_two_wishes_for_one_axis_must_agree():
    t = Term(6)
    a, b = dimension("width", t), dimension("rank", t)
    with pytest.raises(SizeError, match="shares an axis with another dimension of this request"):
        solve(wish(a, 8), wish(b, 9))
    assert solve(wish(a, 8), wish(b, 8))[0] == {t: 8}


def test_channels_grow():
    model, _ = traced("resnet")
    kinds = {d.kind for d in model.dimensions if d.growable}
    assert "channels" in kinds
    grown, error = grow_and_measure("resnet", {"channels": "x1.5"})
    assert error <= LIMIT
    assert all(grown[d.name].size >= d.size for d in model.dimensions if d.kind == "channels")


def test_a_vocabulary_that_nothing_reads_back_grows():
    model, _ = traced("llama")
    (name,) = [d.name for d in model.dimensions if d.kind == "vocabulary" and d.growable]
    grown, error = grow_and_measure("llama", {name: "+6"})
    assert error <= LIMIT
    assert sizes_of(grown, "vocabulary") == {63}


def test_a_plan_changes_nothing():
    model, _ = traced("llama")
    before = {d.name: d.size for d in model.dimensions}
    plan = meristem.plan(model, {"mlp": "x2", "hidden": "+8"})
    assert plan.changes
    assert {d.name: d.size for d in model.dimensions} == before
