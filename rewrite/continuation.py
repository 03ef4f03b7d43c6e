"""How a stored table goes on: by a rule that its own entries prove.

``count`` (an arange), ``same`` (constant along the axis), ``mask`` (two values that depend on the distance
of two positions alone), ``waves`` (sines and cosines of one angle each, which grows by the same step).
What has no rule is learned, or must be given. ``stretch`` interpolates (no rule, and not exact).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from meristem.rewrite.graph import Array

# So many entries along an axis are evidence of a rule.
SEEN = 4
# Angles of float32 tables are off by the rounding of their largest.
ANGLE = 1e-3
UNIT = 1e-4


def rule_of(data: Array, axes: Sequence[int]) -> str:
    """The rule by which ``data`` goes on along ``axes`` (one, or the two of a mask); empty: none."""
    if data.size == 0 or min(data.shape[a] for a in axes) < SEEN:
        return ""
    wide = np.asarray(data, np.float64)
    if all(np.array_equal(wide, _first(wide, a, wide.shape[a])) for a in axes):
        return "same"
    if len(axes) == 2 and _is_mask(_last(wide, axes)):
        return "mask"
    if len(axes) == 1:
        steps = np.diff(wide, axis=axes[0])
        if steps.flat[0] != 0 and np.all(steps == steps.flat[0]):
            return "count"
        if data.dtype.kind == "f" and _pairs(np.moveaxis(wide, axes[0], 0)) is not None:
            return "waves"
    return ""


def continued(data: Array, sizes: Mapping[int, int], rule: str) -> Array:
    """The table with new ``sizes`` of some axes, in float64; its old entries are untouched by a rule.

    ``stretch`` is linear interpolation whose ends keep their places (``align_corners``), along every axis.
    """
    wide = np.asarray(data, np.float64)
    if rule == "stretch":
        for axis, size in sizes.items():
            wide = _stretched(wide, axis, size)
        return wide
    if rule == "mask":
        return _masked(wide, sizes)
    for axis, size in sizes.items():
        count = size - wide.shape[axis]
        if rule == "same":
            more = _first(wide, axis, count)
        elif rule == "count":
            step = np.take(wide, [1], axis) - np.take(wide, [0], axis)
            last = np.take(wide, [-1], axis)
            more = last + step * _along(np.arange(1, count + 1), axis, wide.ndim)
        else:
            more = _waves(wide, axis, size)
        wide = np.concatenate([wide, more], axis)
    return wide


def _first(x: Array, axis: int, count: int) -> Array:
    """The first coordinate along an axis, ``count`` times."""
    return np.repeat(np.take(x, [0], axis), count, axis)


def _along(x: Array, axis: int, rank: int) -> Array:
    return x.reshape([-1 if a == axis else 1 for a in range(rank)])


def _last(x: Array, axes: Sequence[int]) -> Array:
    return np.moveaxis(x, list(axes), [-2, -1])


def _is_mask(x: Array) -> bool:
    """Two values, by distance alone, and no change among the two largest distances on either side."""
    if x.shape[-1] != x.shape[-2] or len(np.unique(x)) != 2:
        return False
    by_distance = np.array_equal(x[..., 1:, 1:], x[..., :-1, :-1])
    ends = (x[..., -1, :2], x[..., 0, -2:])
    return by_distance and all(np.array_equal(e[..., 0], e[..., 1]) for e in ends)


def _masked(x: Array, sizes: Mapping[int, int]) -> Array:
    """Distances beyond the largest seen look as it does."""
    axes = list(sizes)
    own = _last(x, axes)
    n = own.shape[-1]
    rows, columns = np.ogrid[: sizes[axes[0]], : sizes[axes[1]]]
    distance = np.clip(columns - rows, 1 - n, n - 1)
    by_distance = np.concatenate([own[..., :0:-1, 0], own[..., 0, :]], -1)
    return np.moveaxis(by_distance[..., distance + n - 1], [-2, -1], axes)


def _pairs(x: Array) -> tuple[Array, Array, Array] | None:
    """(columns of sines, of cosines, [steps, offsets] of their angles) of a table [n, ...]."""
    rows = x.reshape(len(x), -1)
    count = rows.shape[1]
    if count % 2:
        return None
    numbers = np.arange(count)
    for sines, cosines in (
        (numbers[::2], numbers[1::2]),
        (numbers[: count // 2], numbers[count // 2 :]),
    ):
        a, b = rows[:, sines], rows[:, cosines]
        if np.all(np.abs(a * a + b * b - 1) < UNIT):
            angle = np.unwrap(np.arctan2(a, b), axis=0)
            step = (angle[-1] - angle[0]) / (len(rows) - 1)
            line = angle[0] + step * np.arange(len(rows))[:, None]
            if np.all(np.abs(angle - line) < ANGLE):
                return sines, cosines, np.stack([step, angle[0]])
    return None


def _waves(x: Array, axis: int, size: int) -> Array:
    rows = np.moveaxis(x, axis, 0)
    found = _pairs(rows)
    assert found is not None
    sines, cosines, (step, offset) = found
    angle = offset + step * np.arange(len(rows), size)[:, None]
    out = np.empty((size - len(rows), rows[0].size))
    out[:, sines], out[:, cosines] = np.sin(angle), np.cos(angle)
    return np.moveaxis(out.reshape(-1, *rows.shape[1:]), 0, axis)


def _stretched(x: Array, axis: int, size: int) -> Array:
    at = np.linspace(0, x.shape[axis] - 1, size)
    low = np.minimum(at.astype(np.int64), max(x.shape[axis] - 2, 0))
    part = _along(at - low, axis, x.ndim)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    return np.asarray(np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part)
