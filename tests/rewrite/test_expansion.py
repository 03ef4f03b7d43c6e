"""Recipes of weights: determinism, twins, factors, tables that continue, plain data."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.lift import Lift
from meristem.rewrite.packed import pack, unpack
from meristem.rewrite.plan import expansion_data, expansion_from

WIDE = Lift(("atom", 4, 6))
SAME = Lift(("atom", 3, 3))


def recipe(**fields):
    return replace(Expansion("layer.weight", (WIDE, SAME)), **fields)


def old(dtype=np.float64):
    return np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)


def test_old_coordinates_are_copied_bit_by_bit():
    w = old(np.float32)
    new = recipe().apply(w)
    assert new.shape == (6, 3)
    assert new.dtype == np.float32
    assert np.array_equal(new[:4], w)
    assert np.all(np.isfinite(new))
    assert np.any(new[4:])


def test_fresh_values_depend_on_seed_name_and_block_alone():
    w = old()
    one = recipe().apply(w)
    assert np.array_equal(one, recipe().apply(w))
    assert not np.array_equal(one, recipe(seed=1).apply(w))
    assert not np.array_equal(one, recipe(name="other.weight").apply(w))
    other = np.random.default_rng(5).standard_normal((9, 9))
    Expansion("x", (Lift(("atom", 9, 12)), Lift(("atom", 9, 9)))).apply(other)
    assert np.array_equal(one, recipe().apply(w))


@pytest.mark.parametrize(("kind", "check"), [
    ("zero", lambda new, w: np.all(new == 0)),
    ("mean", lambda new, w: np.allclose(new, w.mean(0))),
    ("copy", lambda new, w: np.array_equal(new, w[[0, 1]])),
    ("positive", lambda new, w: np.all(new > 0)),
    ("free", lambda new, w: len(np.unique(new)) == new.size),
])  # fmt: skip
def test_fills(kind, check):
    w = old()
    assert check(recipe(fills={(1, 0): Fill(kind, 0, (0, 0))}).apply(w)[4:], w)


def test_the_mean_is_of_the_stored_values():
    """Rounded first: the mean of what is stored is what is stored."""
    w = old(np.float16)
    new = recipe(fills={(1, 0): Fill("mean", 0, (0, 0))}, scales={(0, 0): 0.3}).apply(w)
    assert np.array_equal(new[4], new[:4].astype(np.float64).mean(0).astype(np.float16))


def test_factors_and_shifts():
    w = old()
    assert np.allclose(recipe(scales={(0, 0): np.log(2.0)}).apply(w)[:4], 2 * w)
    shifted = recipe(scales={(0, 0): np.log(2.0)}, shift=1.0).apply(w)[:4]
    assert np.allclose(shifted + 1, 2 * (w + 1))


def test_fresh_coordinates_inside_a_product():
    """Heads of four: growing the head size puts fresh coordinates inside every head."""
    axis = Lift(("prod", ("atom", 3, 3), ("atom", 2, 4)))
    w = np.arange(6.0)
    new = Expansion("w", (axis,), {(1,): Fill("zero")}).apply(w)
    assert new.tolist() == [0, 1, 0, 0, 2, 3, 0, 0, 4, 5, 0, 0]


def test_a_mean_along_the_second_of_two_digits():
    axis = Lift(("prod", ("atom", 2, 2), ("atom", 3, 4)))
    w = np.arange(6.0)
    new = Expansion("w", (axis,), {(1,): Fill("mean", 0, (0,))}).apply(w)
    assert new.tolist() == [0, 1, 2, 1, 3, 4, 5, 4]


def test_the_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match="recipe for"):
        recipe().apply(np.zeros((5, 3)))


def test_no_change_is_the_same_tensor():
    same = Expansion("w", (SAME,))
    assert not same.changes
    w = np.arange(3.0)
    got = same.apply(w)
    assert np.array_equal(got, w)
    assert got is not w


def table(values, new):
    n = len(values)
    return Expansion("t", (Lift(("atom", n, new)),), progression=0).apply(np.array(values))


def test_a_rotary_table_continues_by_its_rule():
    theta = 10000.0 ** (-np.arange(4) / 4)
    assert np.allclose(table(theta, 6), 10000.0 ** (-np.arange(6) / 4))


@pytest.mark.parametrize("values", [
    [0.0, 0.0], [0.0, 1.0], [1e-12, 4.0], [1.0, -2.0], [0.3, 0.1, 0.7], [2.0], [1e-30, 1e30],
])  # fmt: skip
def test_other_tables_repeat_their_last_entry(values):
    assert np.array_equal(table(values, len(values) + 3), [*values, *[values[-1]] * 3])


def test_composition_equals_growing_twice():
    """Old coordinates after two growths are those of one, and the first fresh ones stay."""
    w = old()
    first = recipe(fills={(1, 0): Fill("free")})
    once = first.apply(w)
    second = Expansion("layer.weight", (Lift(("atom", 6, 7)), SAME), {(1, 0): Fill("zero")})
    twice = second.apply(once)
    assert np.array_equal(twice[:6], once)
    assert np.array_equal(twice[:4], w)


def test_a_recipe_is_plain_data():
    r = recipe(fills={(1, 0): Fill("mean", 0, (0, 0))}, scales={(0, 0): 0.1})
    data = asdict(r)
    data["fills"] = [[list(k), v] for k, v in data["fills"].items()]
    data["scales"] = [[list(k), v] for k, v in data["scales"].items()]
    text = json.dumps(data)
    back = json.loads(text)
    axes = tuple(Lift(_tuples(a["term"])) for a in back["axes"])
    fills = {tuple(k): Fill(f["kind"], f["digit"], tuple(f["source"])) for k, f in back["fills"]}
    scales = {tuple(k): v for k, v in back["scales"]}
    again = Expansion(back["name"], axes, fills, scales, back["shift"], back["seed"])
    assert np.array_equal(again.apply(old()), r.apply(old()))


def _tuples(term):
    return tuple(_tuples(x) if isinstance(x, list) else x for x in term)


@pytest.mark.parametrize("wide", [False, True])
def test_a_block_may_be_given(wide: bool) -> None:
    """Its entries travel in the plan, in the precision that they need."""
    w = old()
    values = np.random.default_rng(1).standard_normal((2, 3))
    if not wide:
        values = values.astype(np.float32).astype(np.float64)
    r = recipe(fills={(1, 0): Fill("given", data=pack(values))})
    back = expansion_from(json.loads(json.dumps(expansion_data(r))))
    assert back == r
    assert np.array_equal(back.apply(w)[4:], values)
    assert pack(values).startswith("f8" if wide else "f4")
    with pytest.raises(ValueError, match="no type of packed entries"):
        unpack("what", (2, 3))
