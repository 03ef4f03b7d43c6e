"""Writing by index, for both carriers: several index tensors become one, and slices entries."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Literal, Value


def write(
    b: Builder, x: Value, axes: Sequence[int], index: Sequence[Value], z: Value, *, add: bool
) -> Value | None:
    """numpy's x[..., i, j, ...] = z (``add``: +=) with integer tensors on neighbouring ``axes``.

    ``z`` broadcasts to what is written. None where the axes are not neighbours.
    """
    axes, first, count = list(axes), axes[0], len(axes)
    if axes != list(range(first, first + count)):
        return None
    joint = np.broadcast_shapes(*(i.shape for i in index))
    lead, tail = x.shape[:first], x.shape[first + count :]
    sizes = x.shape[first : first + count]
    flat = _joint(b, index, sizes)
    if flat.shape != joint:
        flat = b.expand(flat, joint)
    flat = b.reshape(flat, [*[1] * first, prod(joint), *[1] * len(tail)])
    wide = (*lead, *joint, *tail)
    z = b.reshape(z, [*[1] * (len(wide) - len(z.shape)), *z.shape])
    if z.shape != wide:
        z = b.expand(z, wide)
    z = b.reshape(z, [*lead, prod(joint), *tail])
    y = b.reshape(x, [*lead, prod(sizes), *tail])
    y = b.apply("scatter", y, flat, z, axis=first, add=add)
    return b.reshape(y, x.shape)


def _joint(b: Builder, index: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Row-major numbers of the places that several index tensors name together."""
    if len(index) == 1:
        return index[0]
    out: Value | None = None
    for i, n in zip(index, sizes, strict=True):
        i = _from_front(b, i, n)
        scaled = None if out is None else b.apply("mul", out, b.literal(n, out.dtype))
        out = i if scaled is None else b.apply("add", scaled, i)
    assert out is not None
    return out


def _from_front(b: Builder, index: Value, size: int) -> Value:
    """Places counted from the front."""
    if isinstance(index, Literal) and index.data.size and index.data.min() >= 0:
        return index
    return b.apply("mod", index, b.literal(size, index.dtype))
