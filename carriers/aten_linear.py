"""Lowering of ATen: contractions and normalisations."""

from __future__ import annotations

from typing import Any

import torch

from meristem.carriers import spatial
from meristem.carriers.aten import Call, aten
from meristem.carriers.einsum import einsum as spelled_out
from meristem.rewrite.graph import Value


@aten("linear.default")
def linear(c: Call) -> Value:
    return c.b.linear(c.value("input"), c.value("weight"), c.maybe("bias"))


@aten("matmul.default", "mm.default", "bmm.default", "mv.default", "dot.default")
def matmul(c: Call) -> Value:
    names = list(c.position)
    return c.b.matmul(c.value(names[0]), c.value(names[1]))


@aten("addmm.default", "baddbmm.default")
def addmm(c: Call) -> Value:
    names = list(c.position)
    y = c.b.matmul(c.value(names[1]), c.value(names[2]))
    alpha, beta = c.num("alpha"), c.num("beta")
    if alpha != 1:
        y = c.b.apply("mul", y, c.b.literal(float(alpha), y.dtype, c.role("alpha")))
    if beta == 0:
        return y
    bias = c.value("self")
    if beta != 1:
        bias = c.b.apply("mul", bias, c.b.literal(float(beta), bias.dtype))
    return c.b.apply("add", y, bias)


@aten("einsum.default")
def einsum(c: Call) -> Value | None:
    return spelled_out(c.b, str(c.args["equation"]), c.list("tensors"))


@aten("outer.default")
def outer(c: Call) -> Value | None:
    return spelled_out(c.b, "i,j->ij", [c.value("self"), c.value("vec2")])


@aten("scaled_dot_product_attention.default")
def attention(c: Call) -> Value:
    return c.b.attention(
        c.value("query"),
        c.value("key"),
        c.value("value"),
        scale=c.num("scale"),
        scale_role=("kwargs", "scale"),
        mask=c.maybe("attn_mask"),
        causal=bool(c.args["is_causal"]),
    )


@aten("convolution.default", "conv1d.default", "conv2d.default", "conv3d.default")
def convolution(c: Call) -> Value | None:
    x, w = c.value("input"), c.value("weight")
    if c.args.get("transposed"):
        return transposed_convolution(c)
    if len(x.shape) != len(w.shape):
        return None
    return c.b.convolution(
        x,
        w,
        c.maybe("bias"),
        stride=_each(c, "stride"),
        pads=[(p, p) for p in _each(c, "padding")],
        dilation=_each(c, "dilation"),
        groups=c.num("groups"),
        groups_role=c.role("groups"),
    )


def _each(c: Call, name: str) -> list[int]:
    """One number for each spatial axis, of which the program may state one for all."""
    got = c.num(name)
    got = list(got) if isinstance(got, (list, tuple)) else [got]
    return got * (len(c.value("weight").shape) - 2) if len(got) == 1 else got


@aten("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def transposed_convolution(c: Call) -> Value | None:
    x, w = c.value("input"), c.value("weight")
    if len(x.shape) != len(w.shape):
        return None
    return spatial.transposed_convolution(
        c.b,
        x,
        w,
        c.maybe("bias"),
        stride=_each(c, "stride"),
        pads=[(p, p) for p in _each(c, "padding")],
        dilation=_each(c, "dilation"),
        extra=_each(c, "output_padding"),
        groups=c.num("groups"),
        groups_role=c.role("groups"),
    )


@aten("conv1d.padding", "conv2d.padding")
def convolution_same(c: Call) -> Value | None:
    w = c.value("weight")
    stride, dilation = c.num("stride"), c.num("dilation")
    rank = len(w.shape) - 2
    stride = stride * rank if len(stride) == 1 else stride
    dilation = dilation * rank if len(dilation) == 1 else dilation
    total = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    pads = [(t // 2, t - t // 2) for t in total] if c.args["padding"] == "same" else [(0, 0)] * rank
    return c.b.convolution(
        c.value("input"),
        w,
        c.maybe("bias"),
        stride=stride,
        pads=pads,
        dilation=dilation,
        groups=c.num("groups"),
        groups_role=c.role("groups"),
    )


@aten("transformers::grouped_mm_fallback.default", "_grouped_mm.default")
def grouped(c: Call) -> Value | None:
    names = list(c.position)
    x, w, ends = (c.maybe(n) for n in names[:3])
    if x is None or w is None or ends is None or len(x.shape) != 2 or len(w.shape) != 3:
        return None
    return c.b.apply("grouped_contract", x, w, ends)


@aten("layer_norm.default", "rms_norm.default")
def layer_norm(c: Call) -> Value:
    x = c.value("input")
    center = "layer_norm" in str(c.node.target)
    axes = range(-len(c.num("normalized_shape")), 0)
    eps = c.num("eps")
    if eps is None:
        eps = torch.finfo(getattr(torch, x.dtype)).eps
    y = c.b.norm(x, list(axes), eps, center, c.role("eps"))
    y.producer.slots["normalized_shape"] = c.b.slot(c.role("normalized_shape"))  # type: ignore[union-attr]
    weight, bias = c.maybe("weight"), c.maybe("bias") if center else None
    if weight is not None:
        y = c.b.apply("mul", y, weight)
    return y if bias is None else c.b.apply("add", y, bias)


@aten("group_norm.default")
def group_norm(c: Call) -> Value:
    x, groups = c.value("input"), c.num("num_groups")
    n, channels, *spatial = x.shape
    y = c.b.reshape(x, [n, groups, channels // groups, *spatial])
    y = c.b.norm(y, list(range(2, len(y.shape))), c.num("eps"), True, c.role("eps"))
    y.producer.slots["groups"] = c.b.slot(c.role("num_groups"))  # type: ignore[union-attr]
    return _affine(c, c.b.reshape(y, x.shape), c.maybe("weight"), c.maybe("bias"))


@aten("instance_norm.default")
def instance_norm(c: Call) -> Value | None:
    """Every channel over its own places; with kept statistics it is a batch norm."""
    x, kept = c.value("input"), c.maybe("running_mean")
    if not c.args["use_input_stats"]:
        return _by_statistics(c)
    if kept is not None:
        return None  # it would write new statistics
    y = c.b.norm(x, range(2, len(x.shape)), c.num("eps"), True, c.role("eps"))
    return _affine(c, y, c.maybe("weight"), c.maybe("bias"))


@aten("_native_batch_norm_legit_no_training.default", "batch_norm.default")
def batch_norm(c: Call) -> Any:
    if c.args.get("training"):
        return None
    y = _by_statistics(c)
    return [y, None, None] if y is not None and "legit" in str(c.node.target) else y


def _by_statistics(c: Call) -> Value | None:
    """(x - mean) / sqrt(var + eps) by stored mean and variance, then gain and bias."""
    x = c.value("input")
    mean, var = c.maybe("running_mean"), c.maybe("running_var")
    if mean is None or var is None:
        return None
    ones = [1, x.shape[1], *[1] * (len(x.shape) - 2)]
    eps = c.b.literal(c.num("eps"), x.dtype, c.role("eps"))
    scale = c.b.apply("rsqrt", c.b.apply("add", var, eps))
    y = c.b.apply("sub", x, c.b.reshape(mean, ones))
    y = c.b.apply("mul", y, c.b.reshape(scale, ones))
    return _affine(c, y, c.maybe("weight"), c.maybe("bias"))


def _affine(c: Call, y: Value, weight: Value | None, bias: Value | None) -> Value:
    """Gain and bias over axis one."""
    ones = [1, y.shape[1], *[1] * (len(y.shape) - 2)]
    if weight is not None:
        y = c.b.apply("mul", y, c.b.reshape(weight, ones))
    if bias is not None:
        y = c.b.apply("add", y, c.b.reshape(bias, ones))
    return y


# -- weights that are made of weights --------------------------------------------------------------


@aten("_weight_norm.default", "_weight_norm_interface.default")
def weight_norm(c: Call) -> Any:
    """v * (g / |v|), the length taken over all axes but one (over all of them at -1)."""
    v, g, dim = c.value("v"), c.value("g"), c.num("dim")
    axes = tuple(a for a in range(len(v.shape)) if dim == -1 or a != dim % len(v.shape))
    square = c.b.apply("pow", v, c.b.literal(2.0, v.dtype))  # which is proved non-negative
    total = c.b.apply("sum", square, axes=axes, keep=dim != -1, mean=False)
    length = c.b.apply("sqrt", total)
    y = c.b.apply("mul", v, c.b.apply("div", g, length))
    return [y, length] if "interface" in str(c.node.target) else y


@aten("bilinear.default")
def bilinear(c: Call) -> Value:
    """y[..., o] = sum over i, j of x[..., i] w[o, i, j] z[..., j] + bias[o]."""
    x, z, w, bias = c.value("input1"), c.value("input2"), c.value("weight"), c.maybe("bias")
    lead = list(range(len(x.shape) - 1))
    y = c.b.contract(x, w, [*lead, 101], [100, 101, 102], [*lead, 100, 102])
    y = c.b.contract(y, z, [*lead, 100, 102], [*lead, 102], [*lead, 100])
    return y if bias is None else c.b.apply("add", y, bias)
