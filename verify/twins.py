"""Twins: coordinates, one of them new, that are equal and receive equal gradients, so that they stay
equal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from meristem.rewrite.graph import Array
from meristem.rewrite.made import Rebuilt
from meristem.verify.recipes import Recipes

# Below this part of the largest gradient, a gradient is rounding.
NOTHING = 1e-13
# Coordinates are twins when their weights and gradients agree to this part.
TWIN = 1e-9


def twins(
    weights: Mapping[str, Array], gradients: Mapping[str, Array], recipes: Recipes
) -> list[str]:
    """Weights with two coordinates, one of them new, whose values and gradients agree."""
    top = max(float(np.abs(g).max(initial=0)) for g in gradients.values())
    out = []
    for name, w in weights.items():
        made, recipe = recipes.made(name), recipes.recipe(name)
        rows = [] if recipe is None else [a.coordinates()[0] < 0 for a in recipe.axes]
        if isinstance(made, Rebuilt):  # a new layer, with halves along some axes
            rows = [
                np.full(a.size, any(f for b in a.blocks() for _, f in b)) for a in made.recipe.axes
            ]
        for axis, fresh in enumerate(rows):
            if fresh.any() and _equal_slices(w, gradients[name], axis, fresh, NOTHING * top):
                out.append(f"{name} along axis {axis}")
    return out


def _equal_slices(w: Array, g: Array, axis: int, fresh: Array, floor: float) -> bool:
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    slopes = np.moveaxis(g, axis, 0).reshape(w.shape[axis], -1)
    rng = np.random.default_rng(rows.shape[1])
    probe = rng.standard_normal((rows.shape[1], 2))
    keys = np.concatenate([_relative(rows @ probe), _relative(slopes @ probe)], axis=1)
    alive = np.abs(slopes).max(axis=1, initial=0) > floor
    order = np.argsort(keys[:, 0], kind="stable")
    for i, j in pairwise(order):
        if (fresh[i] or fresh[j]) and alive[i] and np.abs(keys[i] - keys[j]).max() <= TWIN:
            return True
    return False


def _relative(x: Array) -> Array:
    top = np.abs(x).max(initial=0)
    return np.asarray(x / top if top else x)


__all__ = ["NOTHING", "TWIN", "twins"]
