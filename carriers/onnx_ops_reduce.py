"""ONNX reductions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meristem.carriers.onnx_ops import Call, Declined, axes_of, onnx
from meristem.carriers.onnx_ops_linear import window_pads
from meristem.rewrite.graph import Value


def _axes(c: Call, x: Value) -> tuple[int, ...]:
    axes = c.ints_of(1, "axes")
    if not axes:
        return () if c.attr("noop_with_empty_axes", 0) else tuple(range(len(x.shape)))
    return tuple(axes_of(axes, len(x.shape)))


def _sum(c: Call, x: Value, axes: Sequence[int], *, mean: bool = False) -> Value:
    keep = bool(c.attr("keepdims", 1))
    return c.b.apply("sum", x, axes=tuple(axes), keep=keep, mean=mean) if axes else x


@onnx("ReduceSum", "ReduceMean")
def reduce_sum(c: Call) -> Value:
    x = c.x(0)
    axes = _axes(c, x)
    return (
        _sum(c, x, axes, mean=c.node.op_type == "ReduceMean") if axes else c.b.apply("identity", x)
    )


@onnx("ReduceSumSquare", "ReduceL2")
def reduce_squares(c: Call) -> Value:
    x = c.x(0)
    total = _sum(c, c.b.apply("mul", x, x), _axes(c, x))
    return total if c.node.op_type == "ReduceSumSquare" else c.b.apply("sqrt", total)


@onnx("ReduceL1")
def reduce_l1(c: Call) -> Value:
    x = c.x(0)
    return _sum(c, c.b.apply("abs", x), _axes(c, x))


@onnx("ReduceLogSum")
def reduce_log_sum(c: Call) -> Value:
    x = c.x(0)
    return c.b.apply("log", _sum(c, x, _axes(c, x)))


@onnx("ReduceMax", "ReduceMin", "ReduceProd")
def reduce_extremum(c: Call) -> Value:
    x = c.x(0)
    how = c.node.op_type.removeprefix("Reduce").lower()
    return c.b.apply("extremum", x, how=how, axes=_axes(c, x), keep=bool(c.attr("keepdims", 1)))


@onnx("ArgMax", "ArgMin")
def arg_extremum(c: Call) -> Value:
    x = c.x(0)
    if c.attr("select_last_index", 0):
        raise Declined("takes the last of equal entries")
    axes = (c.attr("axis", 0) % len(x.shape),)
    how = c.node.op_type.lower()
    return c.b.apply("extremum", x, how=how, axes=axes, keep=bool(c.attr("keepdims", 1)))


@onnx("GlobalAveragePool", "GlobalMaxPool")
def global_pool(c: Call) -> Value:
    x = c.x(0)
    axes = tuple(range(2, len(x.shape)))
    if c.node.op_type == "GlobalAveragePool":
        return c.b.apply("sum", x, axes=axes, keep=True, mean=True)
    return c.b.apply("extremum", x, how="max", axes=axes, keep=True)


@onnx("MaxPool")
def max_pool(c: Call) -> Value:
    if c.wants(1) or any(d != 1 for d in c.attr("dilations") or ()):
        raise Declined("indices or dilation")
    return _pool(c, "max", -np.inf)


@onnx("AveragePool")
def average_pool(c: Call) -> Value:
    """Padding counts as zeros; where it must not, a table of corrections follows."""
    if any(d != 1 for d in c.attr("dilations") or ()):
        raise Declined("dilation")
    x = c.x(0)
    y = _pool(c, "mean", 0.0)
    pads = window_pads(c, x.shape[2:], c.attr("kernel_shape"))
    if not any(lo or hi for lo, hi in pads) or c.attr("count_include_pad", 0):
        return y
    ones = c.b.literal(np.ones((1, 1, *x.shape[2:])), x.dtype)
    share: Any = _pool(c, "mean", 0.0, ones)
    return c.b.apply("mul", y, c.b.literal(1 / share.data, x.dtype))


def _pool(c: Call, how: str, filler: float, x: Value | None = None) -> Value:
    x = c.x(0) if x is None else x
    kernel = [int(k) for k in c.attr("kernel_shape")]
    pads = window_pads(c, x.shape[2:], kernel)
    if c.attr("ceil_mode", 0) and any(lo or hi for lo, hi in pads):
        raise Declined("rounds up over padding")
    if any(lo or hi for lo, hi in pads):
        x = c.b.apply("pad", x, pads=((0, 0), (0, 0), *pads), value=filler)
    return c.b.apply(
        "pool",
        x,
        how=how,
        kernel=tuple(kernel),
        pads=(0,) * len(kernel),
        stride=tuple(c.attr("strides") or [1] * len(kernel)),
        ceil=bool(c.attr("ceil_mode", 0)),
    )
