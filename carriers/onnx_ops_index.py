"""ONNX operators that read or write by index, and those that make tensors from sizes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from meristem.carriers import indices
from meristem.carriers.onnx_ops import Call, Declined, onnx
from meristem.carriers.onnx_ops_elementwise import folded, to_type
from meristem.carriers.onnx_values import dtype_name
from meristem.rewrite.graph import Input, Literal, Value


@onnx("Gather")
def gather(c: Call) -> Value:
    x, index = c.x(0), c.x(1)
    axis = c.attr("axis", 0) % len(x.shape)
    if not isinstance(index, Literal) or isinstance(x, Literal):
        return c.b.apply("take", x, index, axis=axis, unsigned=_given(index))
    if index.data.size == 1:
        # One coordinate: a slice, so that growth knows which one it is.
        at = int(index.data.flat[0]) % x.shape[axis]
        y = c.b.slice(x, axis, at, at + 1, roles={"start": ("entry", 1, 0)})
        return c.b.reshape(y, [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])
    n = x.shape[axis]
    if index.data.size == n and np.array_equal(index.data.ravel(), np.arange(n)):
        # as_strided: a table that reads every entry in order is a reshape.
        shape = [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]
        return c.b.reshape(x, shape, ("arange", 1, axis))
    return c.b.apply("take", x, index, axis=axis)


def _given(index: Value) -> bool:
    """Is it what the caller gives: ids of an embedding, which its own framework rejects below zero?

    Gather itself would count them from the end; the file no longer says which of the two was meant.
    """
    while index.producer is not None and index.producer.kind in ("cast", "identity", "reshape"):
        index = index.producer.inputs[0]
    return isinstance(index, Input)


@onnx("GatherElements")
def gather_elements(c: Call) -> Value:
    x, index = c.x(0), c.x(1)
    axis = c.attr("axis", 0) % len(x.shape)
    n = x.shape[axis]
    if isinstance(index, Literal):
        index = folded(c, [index], np.asarray(index.data) % n, index.dtype)
    return c.b.apply("take_along", x, index, axis=axis)


@onnx("GatherND")
def gather_nd(c: Call) -> Value:
    x, index = c.x(0), c.x(1)
    count, lead = index.shape[-1], int(c.attr("batch_dims", 0))
    if lead:
        raise Declined("batch axes")
    if isinstance(index, Literal) and index.data.size == 1 and not isinstance(x, Literal):
        at = int(index.data.flat[0]) % x.shape[0]
        y = c.b.slice(x, 0, at, at + 1, roles={"start": ("entry", 1, 0)})
        return c.b.reshape(y, [*index.shape[:-1], *x.shape[1:]])
    parts = [c.b.select(index, -1, i) for i in range(count)]
    if count == 1:
        return c.b.apply("take", x, parts[0], axis=0)
    return c.b.apply("take_many", x, *parts, axes=tuple(range(count)))


@onnx("ScatterElements")
def scatter_elements(c: Call) -> Value:
    x, index, z = c.x(0), c.x(1), c.x(2)
    axis = c.attr("axis", 0) % len(x.shape)
    if isinstance(index, Literal):
        places = np.asarray(index.data) % x.shape[axis]
        if places.size > 1 and not c.is_moving(1) and np.all(places == places.flat[0]):
            # One place for every coordinate: a tensor whose sizes can be written.
            attrs = {"shape": index.shape, "value": int(places.flat[0]), "dtype": index.dtype}
            index = c.b.apply("full", slots={"shape": c.b.slot(("filled", 1))}, **attrs)
        else:
            index = folded(c, [index], places, index.dtype)
    return c.b.apply("scatter", x, index, z, axis=axis, add=_adds(c))


@onnx("ScatterND")
def scatter_nd(c: Call) -> Value:
    """The last axis of the index names a place on the first axes."""
    x, index = c.x(0), c.x(1)
    count = index.shape[-1]
    parts = [c.b.select(index, -1, i) for i in range(count)]
    y = indices.write(c.b, x, range(count), parts, c.x(2), add=_adds(c))
    if y is None:
        raise Declined("axes that are no neighbours")
    return y


def _adds(c: Call) -> bool:
    """Are the written entries added (else they replace)?"""
    how = c.attr("reduction", "none")
    how = how.decode() if isinstance(how, bytes) else how
    if how not in ("none", "add"):
        raise Declined(f"writes by {how}")
    return bool(how == "add")


@onnx("OneHot")
def one_hot(c: Call) -> Value:
    """values[1] where the index is the position along the new axis, values[0] elsewhere."""
    index, depth = c.x(0), int(c.const(1).ravel()[0])
    axis = c.attr("axis", -1) % (len(index.shape) + 1)
    off, on = (c.b.select(c.x(2), 0, i) for i in (0, 1))
    shape = [1] * (len(index.shape) + 1)
    shape[axis] = depth
    places = c.b.literal(np.arange(depth).reshape(shape), index.dtype)
    spread = [*index.shape[:axis], 1, *index.shape[axis:]]
    return c.b.apply("where", c.b.apply("eq", c.b.reshape(index, spread), places), on, off)


@onnx("TopK")
def top_k(c: Call) -> list[Any]:
    x, k = c.x(0), int(c.const(1).ravel()[0])
    at = {
        "axis": c.attr("axis", -1) % len(x.shape),
        "descending": bool(c.attr("largest", 1)),
        "k": k,
    }
    slots = {} if c.is_moving(1) else {"k": c.b.slot(("scalar", 1))}
    out: list[Any] = [c.b.apply("scan", x, slots=slots, how="topk", **at)]
    places = c.wants(1)
    out.append(
        c.b.apply("scan", x, slots=slots, how="topk_index", dtype="int64", **at) if places else None
    )
    return out


@onnx("CumSum")
def cumsum(c: Call) -> Value:
    x, axis = c.x(0), c.ints(1)[0]
    axis %= len(x.shape)
    backwards = bool(c.attr("reverse", 0))
    y = _flip(c, x, axis) if backwards else x
    total = c.b.apply("scan", y, how="cumsum", axis=axis)
    if c.attr("exclusive", 0):
        total = c.b.apply("sub", total, y)
    return _flip(c, total, axis) if backwards else total


def _flip(c: Call, x: Value, axis: int) -> Value:
    return c.b.apply("rearrange", x, how="flip", axes=(axis,))


@onnx("Trilu")
def trilu(c: Call) -> Value:
    k = int(c.const(1).ravel()[0]) if c.has(1) else 0
    return c.b.apply("scan", c.x(0), how="triu" if c.attr("upper", 1) else "tril", k=k)


# -- tensors from sizes ------------------------------------------------------------------------


@onnx("Shape")
def shape(c: Call) -> Value:
    """Sizes as numbers; they hold for other sizes only where no asked axis is dynamic."""
    x = c.x(0)
    window = slice(c.attr("start", 0), c.attr("end"))
    out = c.b.literal(np.asarray(x.shape[window], np.int64), "int64")
    return c.b.moves(out, np.array([_dynamic(c, a) for a in range(len(x.shape))[window]], bool))


@onnx("Size")
def size(c: Call) -> Value:
    x = c.x(0)
    out = c.b.literal(np.asarray(prod(x.shape), np.int64), "int64")
    return c.b.moves(out, any(_dynamic(c, a) for a in range(len(x.shape))))


def _dynamic(c: Call, axis: int) -> bool:
    """What the file does not state as a number may move."""
    value = c.node.inputs[0]
    known = value.shape if value is not None else None
    return known is None or axis >= len(known) or not isinstance(known[axis], int)


@onnx("ConstantOfShape")
def constant_of_shape(c: Call) -> Value:
    tensor = c.attr("value")
    value = 0.0 if tensor is None else tensor.numpy().ravel()[0]
    dtype = "float32" if tensor is None else dtype_name(tensor.dtype)
    slots = {"shape": c.b.slot(("shape", 0, 0))}
    return c.b.apply("full", shape=tuple(c.ints(0)), value=value, dtype=dtype, slots=slots)


@onnx("Range")
def range_(c: Call) -> Value:
    start, limit, step = (np.asarray(c.const(i)).ravel()[0] for i in range(3))
    count = max(int(np.ceil((limit - start) / step)), 0)
    slots = {} if c.is_moving(1) else {"end": c.b.slot(("scalar", 1))}
    return c.b.apply("range", start=start, step=step, length=count, dtype=c.x(0).dtype, slots=slots)


@onnx("EyeLike")
def eye_like(c: Call) -> Value:
    x = c.x(0)
    if not isinstance(x, Literal):
        raise Declined("follows the sizes of data")
    dtype = x.dtype if c.attr("dtype") is None else c.type_of()
    eye = np.eye(x.shape[0], x.shape[1], k=int(c.attr("k", 0)))
    return to_type(c, c.b.literal(eye, "float32"), dtype)
