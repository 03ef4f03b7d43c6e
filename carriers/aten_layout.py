"""Lowering of ATen: moving and making coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from meristem.carriers.aten import Call, aten
from meristem.carriers.aten_values import shape_of
from meristem.rewrite.graph import Value


@aten(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "view_copy.default",
    "_reshape_copy.default",
)
def reshape(c: Call) -> Value:
    role = c.role("size" if "size" in c.position else "shape")
    return c.b.reshape(c.value("self"), c.shape(), role)


@aten("unflatten.int")
def unflatten(c: Call) -> Value:
    x = c.value("self")
    first, count = c.num("dim") % len(x.shape), len(c.num("sizes"))
    slots = {"pieces": c.b.slot(c.role("sizes"))}
    return c.b.apply("reshape", x, shape=c.shape(), first=first, count=count, slots=slots)


@aten(
    "unsqueeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "squeeze.default",
    "flatten.using_ints",
    "unsqueeze_copy.default",
    "squeeze_copy.dim",
)
def regroup(c: Call) -> Value:
    return c.b.reshape(c.value("self"), c.shape())


@aten("permute.default", "permute_copy.default")
def permute(c: Call) -> Value:
    return c.b.permute(c.value("self"), c.num("dims"))


@aten("transpose.int", "t.default", "mT.default", "numpy_T.default", "swapaxes.default")
def transpose(c: Call) -> Value:
    x = c.value("self")
    perm = list(range(len(x.shape)))
    if len(perm) < 2:
        return c.b.apply("identity", x)
    i, j = (c.num("dim0"), c.num("dim1")) if "dim0" in c.position else (-2, -1)
    perm[i], perm[j] = perm[j], perm[i]
    return c.b.permute(x, perm)


@aten("movedim.intlist", "movedim.int")
def movedim(c: Call) -> Value:
    x = c.value("self")
    probe = np.empty(tuple(range(2, 2 + len(x.shape))), np.bool_)
    moved = np.moveaxis(probe, c.num("source"), c.num("destination"))
    return c.b.permute(x, [n - 2 for n in moved.shape])


@aten("expand.default", "broadcast_to.default", "expand_as.default", "expand_copy.default")
def expand(c: Call) -> Value:
    role = c.role("size") if "size" in c.position else None
    return c.b.expand(c.value("self"), c.shape(), role)


@aten("repeat.default", "tile.default")
def repeat(c: Call) -> Value:
    name = "repeats" if "repeats" in c.position else "dims"
    repeats = c.num(name)
    x = c.value("self")
    if len(repeats) < len(x.shape):
        return c.b.tile(x, [1] * (len(x.shape) - len(repeats)) + list(repeats))
    return c.b.tile(x, repeats, c.role(name))


@aten("repeat_interleave.self_int")
def repeat_interleave(c: Call) -> Value | None:
    if c.args["dim"] is None:
        return None
    role = None if isinstance(c.args["repeats"], fx.Node) else c.role("repeats")
    return c.b.repeat_each(c.value("self"), c.num("repeats"), c.num("dim"), role)


@aten("slice.Tensor", "slice_copy.Tensor")
def slice_(c: Call) -> Value:
    x = c.value("self")
    start, end = c.num("start") or 0, c.num("end")
    n = x.shape[c.num("dim")]
    roles = {"start": c.role("start"), "end": c.role("end")}
    if any(isinstance(c.args[k], fx.Node) for k in ("start", "end")):
        return c.b.slice(
            x, c.num("dim"), start, n if end is None else end, c.num("step"), dynamic=True
        )
    return c.b.slice(x, c.num("dim"), start, n if end is None else end, c.num("step"), roles)


@aten("narrow.default")
def narrow(c: Call) -> Value:
    start, length = c.num("start"), c.num("length")
    roles = {"start": c.role("start"), "length": c.role("length")}
    return c.b.slice(c.value("self"), c.num("dim"), start, start + length, 1, roles)


@aten("select.int", "select_copy.int")
def select(c: Call) -> Value:
    return c.b.select(c.value("self"), c.num("dim"), c.num("index"), c.role("index"))


@aten("split_with_sizes.default", "split_with_sizes_copy.default", "split.sizes")
def split_sizes(c: Call) -> list[Value]:
    name = "split_sizes" if "split_sizes" in c.position else "split_size"
    return c.b.split(c.value("self"), c.num("dim"), c.num(name), c.role(name))


@aten("split.Tensor", "chunk.default", "unbind.int", "tensor_split.sections")
def split(c: Call) -> list[Value]:
    """Pieces of one size: the program states one number, or none (see normalisation)."""
    x = c.value("self")
    axis = c.num("dim") % len(x.shape)
    shapes = [shape_of(v) for v in c.node.meta["val"]]
    if "unbind" in str(c.node.target):
        return [c.b.select(x, axis, i) for i in range(len(shapes))]
    return c.b.split(x, axis, [s[axis] for s in shapes])


@aten("cat.default", "concat.default", "concatenate.default")
def cat(c: Call) -> Value:
    return c.b.concat(c.list("tensors"), c.num("dim"))


@aten("slice_scatter.default")
def slice_scatter(c: Call) -> Value | None:
    """What writing into a slice becomes: the piece before it, what is written, the piece after."""
    x, axis = c.value("self"), c.num("dim")
    n = x.shape[axis]
    start, end = c.num("start") or 0, c.num("end")
    start, end, _ = slice(start, end).indices(n)
    if c.num("step") != 1 or any(isinstance(c.args[k], fx.Node) for k in ("start", "end")):
        return None
    before = c.b.slice(x, axis, 0, start, roles={"end": c.role("start")})
    after = c.b.slice(x, axis, end, n, roles={"start": c.role("end")})
    return c.b.concat([before, c.value("src"), after], axis)


@aten("select_scatter.default")
def select_scatter(c: Call) -> Value | None:
    """As ``slice_scatter``, for one coordinate."""
    x, axis = c.value("self"), c.num("dim") % len(c.value("self").shape)
    n, index = x.shape[axis], c.num("index")
    if index == -n:  # nothing stands before it whose end could carry its place
        return None
    at = index % n
    before = c.b.slice(x, axis, 0, at, roles={"end": c.role("index")})
    one = [1 if a == axis else m for a, m in enumerate(x.shape)]
    after = c.b.slice(x, axis, at + 1, n)
    return c.b.concat([before, c.b.reshape(c.value("src"), one), after], axis)


@aten("stack.default")
def stack(c: Call) -> Value:
    xs = c.list("tensors")
    axis = c.num("dim") % (len(xs[0].shape) + 1)
    shape = [*xs[0].shape[:axis], 1, *xs[0].shape[axis:]]
    return c.b.concat([c.b.reshape(x, shape) for x in xs], axis)


@aten("constant_pad_nd.default", "pad.default")
def pad(c: Call) -> Value | None:
    if c.args.get("mode") not in (None, "constant"):
        return None
    x, flat = c.value("self"), c.num("pad")
    if min(flat, default=0) < 0:
        return None  # a crop whose number cannot follow what grows
    pads = [(0, 0)] * len(x.shape)
    for i in range(len(flat) // 2):
        pads[-1 - i] = (flat[2 * i], flat[2 * i + 1])
    rank = len(x.shape)
    places = {(rank - 1 - i // 2, i % 2): i for i in range(len(flat))}
    slots = {"pads": c.b.slot(c.role("pad"))}
    value = float(c.num("value") or 0)
    return c.b.apply("pad", x, pads=tuple(pads), value=value, places=places, slots=slots)


@aten("flip.default")
def flip(c: Call) -> Value:
    x = c.value("self")
    axes = tuple(d % len(x.shape) for d in c.num("dims"))
    return c.b.apply("rearrange", x, how="flip", axes=axes)


@aten("roll.default")
def roll(c: Call) -> Value | None:
    x = c.value("self")
    if not c.num("dims"):
        return None
    axes = tuple(d % len(x.shape) for d in c.num("dims"))
    return c.b.apply("rearrange", x, how="roll", axes=axes, shifts=tuple(c.num("shifts")))


# -- making ----------------------------------------------------------------------------------------


@aten(
    "full.default",
    "zeros.default",
    "ones.default",
    "full_like.default",
    "zeros_like.default",
    "ones_like.default",
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "scalar_tensor.default",
)
def full(c: Call) -> Value | None:
    name = str(c.node.target)
    value: Any = (
        0
        if "zeros" in name
        else 1
        if "ones" in name
        else c.num("fill_value" if "fill_value" in c.position else "s")
    )
    if not isinstance(value, (int, float, bool)):
        return None
    slots = {"shape": c.b.slot(c.role("size"))} if "size" in c.position else {}
    # What is made "like" a value has its axes: it grows with it, and sums to another number.
    like = [c.value("self")] if "_like" in name else []
    return c.b.apply("full", *like, shape=c.shape(), value=value, dtype=c.dtype(), slots=slots)


@aten("arange.default", "arange.start", "arange.start_step")
def arange(c: Call) -> Value:
    start = c.num("start") if "start" in c.position else 0
    step = c.num("step") if "step" in c.position else 1
    slots = {} if isinstance(c.args["end"], fx.Node) else {"end": c.b.slot(c.role("end"))}
    return c.b.apply(
        "range",
        start=start or 0,
        step=1 if step is None else step,
        length=c.shape()[0],
        dtype=c.dtype(),
        slots=slots,
    )
