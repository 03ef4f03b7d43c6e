"""Linear interpolation of what lies on a grid: images, and tables of positions of their patches.

Coordinate i of n new ones lies at (i + 1/2) m / n - 1/2 among m old ones, as in
``torch.nn.functional.interpolate`` with ``align_corners=False``; beyond the ends the nearest is taken. In
two dimensions this is bilinear: the matrix of an axis that is a product is the Kronecker product of its
factors' ones. What does not grow (a class token beside the grid) keeps its rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meristem.rewrite.blocks import Ints
from meristem.rewrite.graph import Array
from meristem.rewrite.lift import assembled, is_leaf

# The rule of recipes whose tables are interpolated over a grid.
GRID = "grid"


def linear(old: int, new: int) -> Array:
    """The matrix [new, old] that resizes one axis; its rows sum to one."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(at.astype(np.int64), max(old - 2, 0))
    out = np.zeros((new, old))
    rows = np.arange(new)
    out[rows, low] = 1 - (at - low)
    out[rows, np.minimum(low + 1, old - 1)] += at - low
    return out


def matrix(term: Any) -> Array:
    """The matrix [new, old] of an axis by the term of its lift (``rewrite.lift``)."""
    return assembled(term, lambda t: linear(t[1], t[2]))


def resized(x: Array, axis: int, by: Array) -> Array:
    """``x`` with an axis multiplied by a matrix [new, old], in float64."""
    return np.moveaxis(np.tensordot(by, np.asarray(x, np.float64), (1, axis)), 0, axis)


def nearest(term: Any) -> Ints:
    """For every old coordinate of an axis the new one that lies nearest to it."""
    if is_leaf(term):
        old, new = term[1], term[2]
        at = (np.arange(old) + 0.5) * new / old - 0.5
        return np.asarray(np.floor(at + 0.5), np.int64)
    out = np.zeros(1, np.int64)
    if term[0] == "prod":
        for p in term[1:]:
            out = (out[:, None] * _new(p) + nearest(p)[None, :]).ravel()
        return out
    starts = np.cumsum([0, *map(_new, term[1:])])
    return np.concatenate([nearest(p) + o for p, o in zip(term[1:], starts, strict=False)])


def _new(term: Any) -> int:
    if is_leaf(term):
        return int(term[2])
    sizes = [_new(p) for p in term[1:]]
    return int(np.prod(sizes)) if term[0] == "prod" else sum(sizes)
