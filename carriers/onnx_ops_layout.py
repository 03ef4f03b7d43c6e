"""ONNX operators that move coordinates: reshape, transpose, slice, split, concat, sequences."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from meristem.carriers import spatial
from meristem.carriers.onnx_ops import Call, Declined, axes_of, onnx
from meristem.carriers.onnx_ops_spatial import mirrored
from meristem.rewrite.graph import Value


@onnx("Reshape")
def reshape(c: Call) -> Value:
    """-1 is what remains, 0 copies the operand's size unless ``allowzero``."""
    x = c.x(0)
    raw = c.ints_of(1, "shape")
    if raw is None:
        raise Declined("no shape")
    shape = resolved(raw, x.shape, allow_zero=bool(c.attr("allowzero", 0)))
    return c.b.reshape(x, shape, ("shape", 1, 0) if c.has(1) else ("attr_entries", "shape"))


def resolved(raw: list[int], old: tuple[int, ...], *, allow_zero: bool) -> list[int]:
    """A Reshape vector as plain sizes."""
    shape = [old[i] if n == 0 and not allow_zero else n for i, n in enumerate(raw)]
    if -1 in shape:
        known = prod(n for n in shape if n != -1)
        shape[shape.index(-1)] = prod(old) // known if known else 0
    return shape


@onnx("Flatten")
def flatten(c: Call) -> Value:
    x = c.x(0)
    axis = c.attr("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return c.b.reshape(x, [prod(x.shape[:axis]), prod(x.shape[axis:])])


@onnx("Squeeze")
def squeeze(c: Call) -> Value:
    x = c.x(0)
    axes = c.ints_of(1, "axes")
    gone = (
        [a for a, n in enumerate(x.shape) if n == 1]
        if axes is None
        else axes_of(axes, len(x.shape))
    )
    return c.b.reshape(x, [n for a, n in enumerate(x.shape) if a not in gone])


@onnx("Unsqueeze")
def unsqueeze(c: Call) -> Value:
    x = c.x(0)
    axes = c.ints_of(1, "axes") or []
    rank = len(x.shape) + len(axes)
    new, rest = axes_of(axes, rank), iter(x.shape)
    return c.b.reshape(x, [1 if a in new else next(rest) for a in range(rank)])


@onnx("Transpose")
def transpose(c: Call) -> Value:
    x = c.x(0)
    return c.b.permute(x, c.attr("perm") or range(len(x.shape))[::-1])


@onnx("Expand")
def expand(c: Call) -> Value:
    """Broadcasting goes both ways: the shape may be shorter, or 1 where the operand is not."""
    x, shape = c.x(0), c.ints(1)
    out = np.broadcast_shapes(x.shape, tuple(shape))
    return c.b.expand(x, out, ("shape", 1, len(out) - len(shape)))


@onnx("Tile")
def tile(c: Call) -> Value:
    return c.b.tile(c.x(0), c.ints(1), role=("shape", 1, 0))


@onnx("Concat")
def concat(c: Call) -> Value:
    xs = [c.x(i) for i in range(len(c))]
    if all(x.shape == (0,) for x in xs):
        return c.b.apply("identity", xs[0])
    return c.b.concat(xs, c.attr("axis", 1))


@onnx("Split")
def split(c: Call) -> list[Value]:
    x = c.x(0)
    axis = c.attr("axis", 0) % len(x.shape)
    sizes = c.ints_of(1, "split")
    if sizes is None:
        sizes = equal_pieces(x.shape[axis], c.attr("num_outputs") or len(c.node.outputs))
    return c.b.split(x, axis, sizes, role=("split", 1))


def equal_pieces(size: int, count: int) -> list[int]:
    """``num_outputs``: pieces of one size, the last one smaller."""
    step = -(-size // count)
    return [min(step, max(size - i * step, 0)) for i in range(count)]


@onnx("Slice")
def slice_(c: Call) -> Value:
    """Several axes at once become a chain; starts and ends keep their addresses."""
    y = c.x(0)
    rank = len(y.shape)
    starts, ends = c.ints_of(1, "starts"), c.ints_of(2, "ends")
    if starts is None or ends is None:
        raise Declined("no bounds")
    axes = c.ints_of(3, "axes") or list(range(len(starts)))
    steps = c.ints_of(4, "steps") or [1] * len(starts)
    where = (
        [("entry", 1), ("entry", 2)]
        if c.has(1)
        else [("attr_entry", "starts"), ("attr_entry", "ends")]
    )
    for k, (start, end, axis, step) in enumerate(
        zip(starts, ends, axes_of(axes, rank), steps, strict=True)
    ):
        n = y.shape[axis]
        if step == -1 and len(range(*slice(start, _low(end, n), -1).indices(n))) == n:
            y = c.b.apply("rearrange", y, how="flip", axes=(axis,))
            continue
        if step < 1:
            raise Declined("runs backwards over a part")
        roles = {"start": (*where[0], k), "end": (*where[1], k)}
        dynamic = any(c.moves(i, k) for i in (1, 2))
        y = c.b.slice(y, axis, start, end, step, roles=roles, dynamic=dynamic)
    return c.b.apply("identity", y) if not starts else y


def _low(end: int, n: int) -> int | None:
    return None if end < -n else end


@onnx("Pad")
def pad(c: Call) -> Value:
    x = c.x(0)
    rank = len(x.shape)
    raw = c.ints_of(1, "pads")
    if raw is None:
        raise Declined("no sizes")
    mode = c.attr("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    axes = axes_of(c.ints(3), rank) if c.has(3) else list(range(rank))
    value = c.const(2).ravel()[0] if c.has(2) else c.attr("value", 0.0)
    pads = [(0, 0)] * rank
    for i, a in enumerate(axes):
        pads[a] = (raw[i], raw[i + len(axes)])
    for a, (lo, hi) in enumerate(pads):  # a negative pad crops
        if lo < 0 or hi < 0:
            x = c.b.slice(x, a, max(-lo, 0), x.shape[a] - max(-hi, 0))
    kept = tuple((max(lo, 0), max(hi, 0)) for lo, hi in pads)
    if not any(lo or hi for lo, hi in kept):
        return c.b.apply("identity", x)
    if mode != "constant":
        return mirrored(c, x, kept, mode)
    places = {(a, side): i + side * len(axes) for i, a in enumerate(axes) for side in (0, 1)}
    slots = {"pads": c.b.slot(("shape", 1, 0))} if min(raw) >= 0 and c.has(1) else {}
    return c.b.apply("pad", x, pads=kept, value=float(value), places=places, slots=slots)


@onnx("DepthToSpace")
def depth_to_space(c: Call) -> Value:
    outer = c.attr("mode", "DCR") in ("DCR", b"DCR")
    return spatial.depth_to_space(c.b, c.x(0), c.attr("blocksize"), outer=outer)


@onnx("SpaceToDepth")
def space_to_depth(c: Call) -> Value:
    return spatial.space_to_depth(c.b, c.x(0), c.attr("blocksize"), outer=True)


# -- sequences: exporters spell a split as a sequence and its elements -------------------------


@onnx("SplitToSequence")
def split_to_sequence(c: Call) -> list[Any]:
    x = c.x(0)
    axis = c.attr("axis", 0) % len(x.shape)
    sizes = c.ints(1) if c.has(1) else [1] * x.shape[axis]
    if c.has(1) and c.const(1).ndim == 0:
        step = sizes[0]
        sizes = [min(step, x.shape[axis] - i) for i in range(0, x.shape[axis], step)]
    pieces = c.b.split(x, axis, sizes, role=("split", 1))
    if not c.has(1) and not c.attr("keepdims", 1):
        pieces = [c.b.reshape(p, [n for a, n in enumerate(p.shape) if a != axis]) for p in pieces]
    return [pieces]


@onnx("SequenceConstruct")
def sequence_construct(c: Call) -> list[Any]:
    return [[c.x(i) for i in range(len(c))]]


@onnx("SequenceAt")
def sequence_at(c: Call) -> Value:
    return c.b.apply("identity", c.sequence(0)[c.ints(1)[0]])


@onnx("ConcatFromSequence")
def concat_from_sequence(c: Call) -> Value:
    xs, axis = c.sequence(0), c.attr("axis")
    if c.attr("new_axis", 0):
        axis %= len(xs[0].shape) + 1
        xs = [c.b.reshape(x, [*x.shape[:axis], 1, *x.shape[axis:]]) for x in xs]
    return c.b.concat(xs, axis)
