"""Query and key size: rotary pairs stay whole, and the scale of the scores stays what it was."""

import pytest

from meristem.rewrite.axes import Pin, Term, cat, pin, prod
from meristem.rewrite.errors import SizeError
from tests.passes.cases import (
    LIMIT,
    dimension,
    grow_and_measure,
    reached,
    sizes_of,
    solve,
    wish,
)


def half_split(size: int):
    """r + r: the halves of a rotary axis are one atom."""
    r = Term(size // 2)
    return dimension("qk_dim", cat([r, r]))


def interleaved(size: int):
    """r * 2: the pairs of a rotary axis are an atom of their own, which cannot grow."""
    two = Term(2)
    pin(two, Pin("rotates pairs"))
    return dimension("qk_dim", prod([Term(size // 2), two]))


@pytest.mark.parametrize(("target", "size"), [(6, 6), (7, 7), ("+1", 7), ("x1.5", 9)])
def test_a_plain_axis_takes_any_size(target, size):
    assert reached("qk_dim", 6, target) == size


@pytest.mark.parametrize("rotary", [half_split, interleaved])
@pytest.mark.parametrize(("target", "size"), [(6, 6), (8, 8), ("+4", 10), ("x1.5", 8), ("x1.1", 6)])
def test_rotary_pairs_stay_whole(rotary, target, size):
    d = rotary(6)
    atoms, sizes = solve(wish(d, target))
    assert sizes == {d.name: size}
    assert list(atoms.values()) == ([size // 2] if size > 6 else [])


@pytest.mark.parametrize("rotary", [half_split, interleaved])
@pytest.mark.parametrize("target", [7, "+3"])
def test_an_odd_size_is_refused_where_pairs_rotate(rotary, target):
    with pytest.raises(
        SizeError, match=r"rotated in pairs.*even number; possible near it: "
    ) as caught:
        solve(wish(rotary(6), target))
    assert caught.value.steps == [2]
    near = [caught.value.target - 1, caught.value.target + 1]
    assert str(caught.value).endswith(f"{near[0]}, {near[1]}")


def test_where_a_part_rotates_an_odd_size_goes_to_the_rest():
    r = Term(2)
    d = dimension("qk_dim", cat([r, r, Term(4)]))
    atoms, sizes = solve(wish(d, 11))
    assert sizes[d.name] == 11
    assert list(atoms.values()) == [7]


@pytest.mark.parametrize(("name", "target"), [("gpt2", "+3"), ("llama", "+4"), ("gptj", "+4")])
@pytest.mark.parametrize("compensate", ["graph", "weights"])
def test_queries_and_keys_grow(name, target, compensate):
    before = {"gpt2": 6, "llama": 6, "gptj": 8}[name]
    grown, error = grow_and_measure(name, {"qk_dim": target}, compensate=compensate)
    assert error <= LIMIT
    assert sizes_of(grown, "qk_dim") == {before + int(target)}
