"""Operators on spatial axes that both carriers have, spelled out with known ones.

Each is a linear map along single axes, or a move of coordinates; channels and batches pass untouched.
A table of weights is a constant, so the axes that it multiplies cannot grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Array, Value


def along(b: Builder, x: Value, axis: int, weights: Array) -> Value:
    """y[..., j, ...] = sum over i of x[..., i, ...] weights[i, j]."""
    labels = list(range(len(x.shape)))
    out = [100 if a == axis else a for a in labels]
    return b.contract(x, b.literal(weights, x.dtype), labels, [axis, 100], out)


def fixed(b: Builder, x: Value, *axes: int) -> Value:
    """The same values, on axes whose size the operator fixes: a roll by nothing."""
    return b.apply("rearrange", x, how="roll", shifts=(0,) * len(axes), axes=axes)


def spread(b: Builder, x: Value, axis: int, step: int) -> Value:
    """step - 1 zeros between neighbours: an axis of n becomes one of (n - 1) * step + 1."""
    if step == 1:
        return x
    n = x.shape[axis]
    y = b.reshape(x, [*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]])
    pads = tuple((0, step - 1) if a == axis + 1 else (0, 0) for a in range(len(y.shape)))
    y = b.apply("pad", y, pads=pads, value=0.0)
    y = b.reshape(y, [*x.shape[:axis], n * step, *x.shape[axis + 1 :]])
    return b.slice(y, axis, 0, (n - 1) * step + 1)


def transposed_convolution(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None,
    *,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    extra: Sequence[int],
    groups: int,
    groups_role: object = None,
) -> Value | None:
    """x[n, g*c, *s], w[g*c, o, *k] -> [n, g*o, *t]: a convolution with the mirrored kernel over the
    operand with zeros between its entries.

    ``pads`` are those of the convolution that it transposes, ``extra`` is added behind each axis. None
    where the padding crops more than a kernel reaches.
    """
    rank = len(w.shape) - 2
    inner = []
    for i, (lo, hi) in enumerate(pads):
        reach = dilation[i] * (w.shape[2 + i] - 1)
        inner.append((reach - lo, reach - hi + extra[i]))
    if any(p < 0 for pair in inner for p in pair):
        return None
    for i, s in enumerate(stride):
        x = spread(b, x, 2 + i, s)
    channels, out, *kernel = w.shape
    w = b.reshape(w, [groups, channels // groups, out, *kernel])
    w = b.permute(w, [0, 2, 1, *range(3, 3 + rank)])
    w = b.apply("rearrange", w, how="flip", axes=tuple(range(3, 3 + rank)))
    w = b.reshape(w, [groups * out, channels // groups, *kernel])
    return b.convolution(
        x,
        w,
        bias,
        stride=[1] * rank,
        pads=inner,
        dilation=dilation,
        groups=groups,
        groups_role=groups_role,
    )


def depth_to_space(b: Builder, x: Value, block: int, *, outer: bool) -> Value:
    """x[..., c*r*r, h, w] -> [..., c, h*r, w*r]; channels are (r, r, c) where ``outer``."""
    *lead, channels, h, w = x.shape
    n = len(lead)
    left = channels // block**2
    parts = [block, block, left] if outer else [left, block, block]
    first = n if outer else n + 1
    y = fixed(b, b.reshape(x, [*lead, *parts, h, w]), first, first + 1)
    c = n + 2 if outer else n
    y = b.permute(y, [*range(n), c, n + 3, first, n + 4, first + 1])
    return b.reshape(y, [*lead, left, h * block, w * block])


def space_to_depth(b: Builder, x: Value, block: int, *, outer: bool) -> Value:
    """x[..., c, h*r, w*r] -> [..., c*r*r, h, w]; channels are (r, r, c) where ``outer``."""
    *lead, channels, h, w = x.shape
    n = len(lead)
    y = b.reshape(x, [*lead, channels, h // block, block, w // block, block])
    y = fixed(b, y, n + 2, n + 4)
    order = [n + 2, n + 4, n] if outer else [n, n + 2, n + 4]
    y = b.permute(y, [*range(n), *order, n + 1, n + 3])
    return b.reshape(y, [*lead, channels * block**2, h // block, w // block])


def averages(size: int, target: int) -> Array:
    """w[i, j]: what coordinate i of ``size`` gives to the j-th of ``target`` adaptive means."""
    out = np.zeros((size, target))
    for j in range(target):
        start, end = j * size // target, -(-(j + 1) * size // target)
        out[start:end, j] = 1 / (end - start)
    return out


def windows(
    b: Builder,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Value:
    """x[n, c, *s] -> [n, c * prod(kernel), count]: every window, as columns."""
    rank = len(kernel)
    if any(pads):
        x = b.apply("pad", x, pads=((0, 0), (0, 0), *((p, p) for p in pads)), value=0.0)
    x = fixed(b, x, *range(2, 2 + rank))
    counts = []
    for i in range(rank):
        axis = 2 + 2 * i
        span = dilation[i] * (kernel[i] - 1) + 1
        counts.append((x.shape[axis] - span) // stride[i] + 1)
        places = np.arange(kernel[i])[:, None] * dilation[i] + np.arange(counts[i]) * stride[i]
        x = b.apply("take", x, b.literal(places, "int64"), axis=axis)
    axes = [*range(2, 2 + 2 * rank)]
    x = b.permute(x, [0, 1, *axes[::2], *axes[1::2]])
    return b.reshape(x, [x.shape[0], x.shape[1] * prod(kernel), prod(counts)])
