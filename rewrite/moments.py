"""How gradients of a weight sit in those of the grown one, and with them what an optimizer keeps.

Growth is F'(T w) = F(w), so dF = T^t dF' for every w. Where T places old entries, scales them by c, repeats
them m times or splits them among replicas, the gradient of the grown weight is R dF on what stems from old
entries:

    placed     1          one entry, or one share of it: what reads replicas of x has the gradient of x
    scaled     1 / c
    repeated   1 / m      m equal entries share the gradient, where what sums them shares evenly

First moments follow R, second moments R * R, entry by entry (Staged Training, arXiv:2203.06211, has the
case of one factor). What is drawn, zero, a mean or given has no past: the caller chooses how it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.graph import Array
from meristem.rewrite.resizing import GRID

# What entries without a past begin with. The first moment of all is zero; of second moments
# ``mean`` takes the mean over the old entries that they extend. With ``asymmetric`` replicas have no past
# either, so that they part from what they repeat (SPARKLING, arXiv:2602.02472).
NEW = ("zero", "mean", "asymmetric")
_INTERPOLATED = ("stretch", GRID)


def carried(recipe: Expansion, state: Array, power: float, new: str = "zero") -> Array:
    """What an optimizer keeps for a grown weight, of the grown shape, in float64.

    ``state`` is kept for the old weight and transforms as the ``power``-th power of its gradient: 1 for
    first moments, 2 for second ones, 0 for what has no unit of the gradient. ``new`` is one of ``NEW``;
    means are taken for second moments. A table that growth interpolates has its state interpolated.

    Raises ValueError where ``state`` has not the old weight's shape.
    """
    if tuple(state.shape) != recipe.old_shape:
        raise ValueError(
            f"{recipe.name}: state of shape {state.shape}, recipe for {recipe.old_shape}"
        )
    wide = np.asarray(state, np.float64)
    if recipe.rule in _INTERPOLATED:
        wide, recipe = recipe.continued(wide)
    grids = [a.core.blocks() for a in recipe.axes]
    past = _with_past(recipe)
    fills = {at: f if past[at] else Fill("zero") for at, f in _fresh(recipe).items()}
    same = replace(
        recipe,
        fills=fills,
        scales={at: -power * s for at, s in recipe.scales.items()},
        shift=0.0,
        progression=None,
    )
    out = same.core(wide, np.float64)
    if new == "mean" and power >= 2:
        numbers = [a.core.coordinates()[1] for a in recipe.axes]
        for at in (at for at, has in past.items() if not has):
            base = recipe.base(at)
            over = tuple(
                axis for axis, i in enumerate(at) if any(fresh for _, fresh in grids[axis][i])
            )
            out[_cells(numbers, at)] = out[_cells(numbers, base)].mean(axis=over, keepdims=True)
    for axis, lift in enumerate(recipe.axes):
        if lift.size != lift.core.size:
            out = _later(out, axis, lift.after_core(), mean=new == "mean" and power >= 2)
        counts = lift.counts()
        if power and counts.max(initial=1) > 1:
            out = out * (counts.astype(np.float64) ** -power).reshape(
                [-1 if a == axis else 1 for a in range(out.ndim)]
            )
    if recipe.donors or new == "asymmetric":
        out = _alone(recipe, out)
    return out


def kept(recipe: Expansion) -> list[Array]:
    """For every axis where the old coordinates are. An entry that is old on all axes is an old entry; the
    others are drawn, made, or replicas."""
    return [a.kept() for a in recipe.axes]


def _fresh(recipe: Expansion) -> dict[tuple[int, ...], Fill]:
    """The fill of every block with fresh digits."""
    grids = [a.core.blocks() for a in recipe.axes]
    return {
        at: recipe.fills.get(at, Fill("free"))
        for at in np.ndindex(*map(len, grids))
        if any(fresh for g, i in zip(grids, at, strict=True) for _, fresh in g[i])
    }


def _with_past(recipe: Expansion) -> dict[tuple[int, ...], bool]:
    """Which of these blocks repeat old entries, at first or second hand."""
    fills = _fresh(recipe)

    def repeats(at: tuple[int, ...]) -> bool:
        return at not in fills or (fills[at].kind == "copy" and repeats(fills[at].source))

    return {at: repeats(at) for at in fills}


def _cells(numbers: Sequence[Array], at: tuple[int, ...]) -> tuple[Array, ...]:
    return np.ix_(*(np.flatnonzero(n == i) for n, i in zip(numbers, at, strict=True)))


def _later(x: Array, axis: int, source: Array, *, mean: bool) -> Array:
    """``x`` with the replicas and mapped coordinates of an axis; the latter have no past."""
    out = np.take(x, np.maximum(source, 0), axis)
    made = np.flatnonzero(source < 0)
    if made.size:
        at = (slice(None),) * axis + (made,)
        out[at] = x.mean(axis=axis, keepdims=True) if mean else 0.0
    return out


def _alone(recipe: Expansion, x: Array) -> Array:
    """Zero but for the old entries themselves."""
    out = np.zeros_like(x)
    at = np.ix_(*kept(recipe))
    out[at] = x[at]
    return out


__all__ = ["NEW", "carried", "kept"]
