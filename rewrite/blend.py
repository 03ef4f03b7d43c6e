"""Recipes that read several tensors: replicas of a coordinate come from other tensors of the same shape.

Advanced knowledge initialisation takes new units from the next block (arXiv:2110.07143); Deep Fusion
(arXiv:2306.11903) sets several models side by side. Both are the ordinary recipe of copies, carried out on
every tensor, of which each entry of the result is then taken from one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meristem.rewrite.graph import Array
from meristem.rewrite.lift import Lift


def advanced(parts: Sequence[Array], axes: Sequence[Lift]) -> Array:
    """The first part where all coordinates are old, the second where one is a replica.

    Shares are what the whole layer is read by, so a shared axis says nothing of where a row comes from:
    U = [U_l; U_(l+1) of g] for rows, both with columns divided among replicas.
    """
    replica = _grid(axes, [0 if a.shares else a.replica() for a in axes])
    return np.where(replica > 0, parts[1], parts[0])


def fused(parts: Sequence[Array], axes: Sequence[Lift]) -> Array:
    """Part r where all coordinates are the r-th replicas, zero where they are of different parts.

    diag(A, B) between layers, [A, B] / 2 where only the columns are copied (the parts are averaged),
    (A + B) / 2 where nothing is. A single part stands for all of them.
    """
    grown = [a for a in axes if a.grows]
    if grown and len(parts) == 1:
        parts = list(parts) * (1 + max(int(a.replica().max()) for a in grown))
    if not grown:
        return np.asarray(np.mean(parts, axis=0), parts[0].dtype)
    shared = sum(a.shares for a in grown)
    whole = len(parts) ** (shared if shared < len(grown) else shared - 1)
    out = np.zeros_like(parts[0])
    for r, part in enumerate(parts):
        where = [np.flatnonzero(a.replica() == r) if a.grows else np.arange(a.size) for a in axes]
        out[np.ix_(*where)] = (part * whole)[np.ix_(*where)]
    return out


def _grid(axes: Sequence[Lift], numbers: Sequence[Array | int]) -> Array:
    """The largest of the axes' numbers at every entry."""
    out: Array = np.zeros((1,) * len(axes), np.int64)
    for axis, n in enumerate(numbers):
        shape = [1] * len(axes)
        shape[axis] = axes[axis].size if isinstance(n, np.ndarray) else 1
        out = np.maximum(out, np.reshape(n, shape))
    return out


BLENDS = {"advanced": advanced, "fused": fused}
