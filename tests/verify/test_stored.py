"""Stored tensors are held against their recipes entry by entry, on the scale of each entry."""

import ml_dtypes
import numpy as np
import pytest

from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.lift import Lift
from meristem.verify.recipes import Recipes, Stored

TABLE = (1e6 ** (-np.arange(16) / 16)).astype(np.float32)
LONGER = Expansion("t", (Lift(("atom", 16, 20)),), progression=0)
MEAN = Expansion(
    "w",
    (Lift(("atom", 8, 12)), Lift(("atom", 3, 3))),
    {(1, 0): Fill("mean", 0, (0, 0))},
)


def compared(recipe, old, spoil=lambda new: None, dtype=None):
    """What is said of a tensor that a recipe made of ``old``, and that was then spoiled."""
    new = np.array(recipe.apply(old))
    spoil(new)
    recipes, stored = Recipes({recipe.name: old}.__getitem__, {recipe.name: recipe}), Stored()
    dtype = dtype or old.dtype.name
    exact = recipes.wide(recipe.name, new.shape, dtype)
    stored.add(recipe.name, new, dtype, exact, recipes.off(recipe.name, exact, dtype))
    (found,) = stored.measures
    return found


@pytest.mark.parametrize("at", [15, 16, 19], ids=["old", "new", "last"])
def test_an_entry_of_a_table_that_is_small_beside_the_first(at):
    def spoil(new):
        new[at] *= np.float32(1 + 1e-6)

    assert compared(LONGER, TABLE).ok
    assert not compared(LONGER, TABLE, spoil).ok


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_means_of_rounded_entries(dtype, seed):
    """A mean may be off by roundings of what it is taken over; entries beside it may not."""
    old = np.random.default_rng(seed).standard_normal((8, 3))
    old[0] = 1e-4
    old = old.astype(dtype)

    def spoil(new):
        new[0, 0] = new[0, 0] * dtype(1.25)

    assert compared(MEAN, old).ok
    assert not compared(MEAN, old, spoil).ok


def test_an_infinite_entry_grants_nothing():
    old = np.array([0.5, -np.inf, 1.0], np.float32)
    kept = Expansion("m", (Lift(("atom", 3, 5)),))

    def spoil(new):
        new[1] = -1e4

    assert compared(kept, old).ok
    assert not compared(kept, old, spoil).ok
    assert compared(LONGER, TABLE).limit < 1e-7 * float(TABLE.max())


def test_numbers_of_bfloat16_are_widened():
    old = np.array([1.0, 1.0078125, 3.0], ml_dtypes.bfloat16)
    scaled = Expansion("s", (Lift(("atom", 3, 3)),), scales={(0,): 0.1})
    wide = Recipes({"s": old}.__getitem__, {"s": scaled}).wide("s")
    assert wide.dtype == np.float64
    assert np.allclose(wide, np.exp(0.1) * old.astype(np.float64), rtol=1e-15)
