"""ONNX normalisations and softmax. The affine part of a norm is its own product and sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meristem.carriers.onnx_ops import Call, Declined, onnx
from meristem.rewrite.graph import Value

EPSILON = ("attr", "epsilon")


def affine(c: Call, y: Value, gain: Value | None, bias: Value | None) -> Value:
    if gain is not None:
        y = c.b.apply("mul", y, gain)
    return y if bias is None else c.b.apply("add", y, bias)


@onnx("LayerNormalization")
def layer_norm(c: Call) -> list[Any]:
    """Results: the norm, and on demand the mean and the reciprocal deviation it used."""
    x, eps = c.x(0), float(c.attr("epsilon", 1e-5))
    axes = range(c.attr("axis", -1) % len(x.shape), len(x.shape))
    y = c.b.norm(x, axes, eps, True, EPSILON)
    out: list[Any] = [affine(c, y, c.x(1), c.maybe(2))]
    if c.wants(1) or c.wants(2):
        out.extend(statistics(c, x, tuple(axes), eps))
    return out


def statistics(c: Call, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    """Mean and 1 / sqrt(variance + eps), with axes of one kept."""
    mean = c.b.apply("sum", x, axes=axes, keep=True, mean=True)
    d = c.b.apply("sub", x, mean)
    square = c.b.apply("mul", d, d)
    var = c.b.apply("sum", square, axes=axes, keep=True, mean=True)
    return mean, c.b.apply("rsqrt", c.b.apply("add", var, c.b.literal(eps, x.dtype, EPSILON)))


@onnx("RMSNormalization")
@onnx("SimplifiedLayerNormalization")
def rms_norm(c: Call) -> Value:
    x = c.x(0)
    if c.wants(1):
        raise Declined("the reciprocal deviation is used")
    axes = range(c.attr("axis", -1) % len(x.shape), len(x.shape))
    return affine(
        c, c.b.norm(x, axes, float(c.attr("epsilon", 1e-5)), False, EPSILON), c.x(1), None
    )


@onnx("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def skip_layer_norm(c: Call) -> list[Any]:
    """norm(x + skip [+ bias]); the fourth result is the sum."""
    if c.wants(1) or c.wants(2):
        raise Declined("the statistics are used")
    simple = c.node.op_type == "SkipSimplifiedLayerNormalization"
    total = c.b.apply("add", c.x(0), c.x(1))
    place = 3 if simple else 4
    if c.has(place):
        total = c.b.apply("add", total, c.x(place))
    axes = (len(total.shape) - 1,)
    y = c.b.norm(total, axes, float(c.attr("epsilon", 1e-5)), not simple, EPSILON)
    y = affine(c, y, c.x(2), None if simple else c.maybe(3))
    return [y, None, None, total]


@onnx("BatchNormalization")
def batch_norm(c: Call) -> Value:
    """Inference: (x - mean) / sqrt(var + eps) * gain + bias, along axis 1."""
    if c.attr("training_mode", 0) or c.wants(1):
        raise Declined("training mode")
    x = c.x(0)
    gain, bias, mean, var = (_channel(c, c.x(i), x) for i in range(1, 5))
    eps = c.b.literal(float(c.attr("epsilon", 1e-5)), x.dtype, EPSILON)
    scale = c.b.apply("rsqrt", c.b.apply("add", var, eps))
    y = c.b.apply("mul", c.b.apply("sub", x, mean), scale)
    return affine(c, y, gain, bias)


def _channel(c: Call, w: Value, x: Value) -> Value:
    return c.b.reshape(w, [-1 if w.shape == () else w.shape[0], *[1] * (len(x.shape) - 2)])


@onnx("InstanceNormalization")
def instance_norm(c: Call) -> Value:
    x = c.x(0)
    y = c.b.norm(x, range(2, len(x.shape)), float(c.attr("epsilon", 1e-5)), True, EPSILON)
    return affine(c, y, _channel(c, c.x(1), x), _channel(c, c.x(2), x))


@onnx("GroupNormalization")
def group_norm(c: Call) -> Value:
    """Channels in groups: [n, g * c, *s] -> [n, g, c, *s], normalised over all but n and g.

    Gain and bias have one entry for each channel from opset 21, one for each group before.
    """
    x, groups = c.x(0), int(c.attr("num_groups"))
    n, channels, *rest = x.shape
    role = ("map", ((1, ("attr", "num_groups")),))
    y = c.b.reshape(x, [n, groups, channels // groups, *rest], role)
    y = c.b.norm(y, range(2, len(rest) + 3), float(c.attr("epsilon", 1e-5)), True, EPSILON)
    gain, bias = c.x(1), c.x(2)
    if gain.shape == (channels,):
        return affine(c, c.b.reshape(y, x.shape), _channel(c, gain, x), _channel(c, bias, x))
    shape = [groups, *[1] * (len(rest) + 1)]
    y = affine(c, y, c.b.reshape(gain, shape), c.b.reshape(bias, shape))
    return c.b.reshape(y, x.shape)


@onnx("LpNormalization")
def lp_norm(c: Call) -> Value:
    x, axis = c.x(0), c.attr("axis", -1)
    if c.attr("p", 2) != 2:
        raise Declined("another norm")
    total = _sum(c, c.b.apply("mul", x, x), [axis % len(x.shape)])
    return c.b.apply("div", x, c.b.apply("sqrt", total))


@onnx("MeanVarianceNormalization")
def mean_variance(c: Call) -> Value:
    axes = [a % len(c.x(0).shape) for a in c.attr("axes") or (0, 2, 3)]
    return c.b.norm(c.x(0), axes, 1e-9, True, None)


def _sum(c: Call, x: Value, axes: Sequence[int]) -> Value:
    return c.b.apply("sum", x, axes=tuple(axes), keep=True, mean=False)


@onnx("Softmax", "LogSoftmax")
def softmax(c: Call) -> Value:
    """Before opset 13 all axes from ``axis`` on are one."""
    x = c.x(0)
    rank = len(x.shape)
    log = c.node.op_type == "LogSoftmax"
    if c.version >= 13:
        return c.b.apply("softmax", x, axis=c.attr("axis", -1) % rank, log=log)
    axis = c.attr("axis", 1) % rank
    if axis == rank - 1:
        return c.b.apply("softmax", x, axis=axis, log=log)
    flat = c.b.reshape(x, [*x.shape[:axis], int(np.prod(x.shape[axis:]))])
    return c.b.reshape(c.b.apply("softmax", flat, axis=axis, log=log), x.shape)
