"""The lowering table of ATen: native operator -> operators of the vocabulary.

One function for each family, registered by operator names; it receives the builder and the native
arguments by name (tensors as Values, numbers as hints) and returns a Value or a list of them. What has
no row here becomes a barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from meristem.carriers.aten_values import dtype_name, number
from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Literal, Value

Lowering = Callable[..., Any]
TABLE: dict[str, Lowering] = {}


def aten(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ``aten.<name>`` (with overload)."""

    def add(f: Lowering) -> Lowering:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            if full in TABLE:
                raise ValueError(f"{full} has a lowering already")
            TABLE[full] = f
        return f

    return add


class Call:
    """One native call: arguments by schema name, values looked up, roles for what can be edited."""

    def __init__(self, b: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        self.b, self.node, self.values = b, node, values
        schema = node.target._schema  # type: ignore[union-attr]
        self.position = {a.name: i for i, a in enumerate(schema.arguments)}
        self.args: dict[str, Any] = {}
        for i, a in enumerate(schema.arguments):
            if i < len(node.args):
                self.args[a.name] = node.args[i]
            elif a.name in node.kwargs:
                self.args[a.name] = node.kwargs[a.name]
            elif a.has_default_value():
                self.args[a.name] = a.default_value
            else:
                self.args[a.name] = None

    def role(self, name: str) -> tuple[Any, ...]:
        """Where the argument lives on the node: position, or keyword where it is keyword-only."""
        i = self.position[name]
        if name in self.node.kwargs or i >= len(self.node.args):
            return ("kwargs", name)
        return ("args", i)

    def value(self, name: str) -> Value:
        """A tensor argument."""
        v = self.values[self.args[name]]
        assert isinstance(v, Value)
        return v

    def maybe(self, name: str) -> Value | None:
        return None if self.args[name] is None else self.value(name)

    def list(self, name: str) -> list[Value]:
        return [self.values[n] for n in self.args[name]]

    def num(self, name: str) -> Any:
        """A number or list of numbers, symbolic ones by their hint."""
        return number(self.args[name])

    def pair(self, left: str, right: str) -> tuple[Value, Value]:
        """Two operands of which one may be a number."""
        a, b = (
            self.values[self.args[n]]
            if isinstance(self.args[n], fx.Node) and isinstance(self.values.get(self.args[n]), Value)
            else None
            for n in (left, right)
        )
        like = a if a is not None else b
        assert like is not None
        out = []
        for name, v in ((left, a), (right, b)):
            out.append(v if v is not None else self.b.operand(self.num(name), like, self.role(name)))
        return out[0], out[1]

    def shape(self) -> tuple[int, ...]:
        """The recorded shape of the (first) result."""
        from meristem.carriers.aten_values import shape_of

        val = self.node.meta["val"]
        return shape_of(val[0] if isinstance(val, (tuple, list)) else val)

    def dtype(self) -> str:
        val = self.node.meta["val"]
        return dtype_name((val[0] if isinstance(val, (tuple, list)) else val).dtype)


def lower(b: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Lower one call; None where the table has no row or the row declines."""
    row = TABLE.get(f"{node.target._schema.name}.{overload(node)}")  # type: ignore[union-attr]
    return None if row is None else row(Call(b, node, values))


def overload(node: fx.Node) -> str:
    return str(node.target._schema.overload_name) or "default"  # type: ignore[union-attr]


# -- elementwise -----------------------------------------------------------------------------------

_UNARY = {
    "neg": "neg", "abs": "abs", "relu": "relu", "sqrt": "sqrt", "rsqrt": "rsqrt", "sign": "sign",
    "reciprocal": "reciprocal", "silu": "silu", "tanh": "tanh", "sin": "sin", "cos": "cos", "tan": "tan",
    "erf": "erf", "expm1": "expm1", "log1p": "log1p", "exp": "exp", "log": "log", "mish": "mish",
    "sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid", "hardswish": "hard_swish", "selu": "selu",
    "floor": "floor", "ceil": "ceil", "round": "round", "trunc": "trunc", "logical_not": "not",
    "isnan": "isnan", "isinf": "isinf", "atan": "atan",
    "clone": "identity", "alias": "identity", "detach": "identity", "contiguous": "identity",
    "lift_fresh_copy": "identity", "detach_": "identity",
}
for _native, _kind in _UNARY.items():

    def _unary(c: Call, kind: str = _kind) -> Value:
        x = c.value("self")
        if kind == "identity" and isinstance(x, Literal):
            return x  # a copied constant is the constant
        return c.b.apply(kind, x)

    aten(f"{_native}.default")(_unary)


@aten("dropout.default")
def dropout(c: Call) -> Value:
    return c.b.apply("identity", c.value("input"))


@aten("gelu.default")
def gelu(c: Call) -> Value:
    return c.b.apply("gelu_tanh" if c.args["approximate"] == "tanh" else "gelu", c.value("self"))


@aten("leaky_relu.default")
def leaky_relu(c: Call) -> Value:
    return c.b.apply("leaky_relu", c.value("self"), options={"slope": c.num("negative_slope")})


@aten("elu.default")
def elu(c: Call) -> Value | None:
    if c.num("scale") != 1 or c.num("input_scale") != 1:
        return None
    return c.b.apply("elu", c.value("self"), options={"alpha": c.num("alpha")})


@aten("softplus.default")
def softplus(c: Call) -> Value:
    return c.b.apply("softplus", c.value("self"), options={"beta": c.num("beta")})


@aten("_to_copy.default", "to.dtype", "to.dtype_layout", "type_as.default", "to.device", "to.other")
def cast(c: Call) -> Value:
    return c.b.apply("cast", c.value("self"), options={"to": c.dtype()}, dtype=c.dtype())


_BINARY = {
    "mul": "mul", "maximum": "maximum", "minimum": "minimum", "min": "minimum", "max": "maximum", "eq": "eq", "ne": "ne", "lt": "lt",
    "le": "le", "gt": "gt", "ge": "ge", "logical_and": "and", "logical_or": "or", "logical_xor": "xor",
    "floor_divide": "floor_div", "remainder": "mod",
}
for _native, _kind in _BINARY.items():

    def _binary(c: Call, kind: str = _kind) -> Value:
        return c.b.apply(kind, *c.pair("self", "other"))

    for _overload in ("other",) if _native in ("min", "max") else ("Tensor", "Scalar", "default"):
        aten(f"{_native}.{_overload}")(_binary)


@aten("__and__.Tensor", "bitwise_and.Tensor", "__or__.Tensor", "bitwise_or.Tensor")
def bitwise(c: Call) -> Value:
    word = "and" if "and" in str(c.node.target) else "or"
    x, y = c.pair("self", "other")
    return c.b.apply(word if x.dtype == "bool" else f"bit_{word}", x, y)


@aten("bitwise_not.default")
def bitwise_not(c: Call) -> Value:
    x = c.value("self")
    return c.b.apply("not" if x.dtype == "bool" else "bit_not", x)


@aten("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def add(c: Call) -> Value:
    x, y = c.pair("self", "other")
    alpha = c.num("alpha")
    if alpha not in (None, 1):
        y = c.b.apply("mul", y, c.b.literal(alpha, y.dtype))
    name = str(c.node.target)
    if "rsub" in name:
        return c.b.apply("sub", y, x)
    return c.b.apply("sub" if "sub" in name else "add", x, y)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor")
def div(c: Call) -> Value:
    return c.b.apply("div", *c.pair("self", "other"), dtype=c.dtype())


@aten("div.Tensor_mode")
def div_mode(c: Call) -> Value | None:
    if c.args["rounding_mode"] == "floor":
        return c.b.apply("floor_div", *c.pair("self", "other"))
    return c.b.apply("div", *c.pair("self", "other")) if c.args["rounding_mode"] is None else None


@aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def power(c: Call) -> Value:
    return c.b.apply("pow", *c.pair("self", "exponent"))


@aten("square.default")
def square(c: Call) -> Value:
    return c.b.apply("pow", c.value("self"), c.b.literal(2.0, c.value("self").dtype))


@aten("clamp.default", "clamp_min.default", "clamp_max.default", "clip.default")
def clamp(c: Call) -> Value:
    x = c.value("self")
    for name, kind in (("min", "maximum"), ("max", "minimum")):
        if c.args.get(name) is not None:
            x = c.b.apply(kind, x, c.b.literal(c.num(name), x.dtype, c.role(name)))
    return x


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Call) -> Value:
    return c.b.apply("where", c.value("condition"), *c.pair("self", "other"))


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Call) -> Value:
    x = c.value("self")
    fill = c.args["value"]
    value = c.values[fill] if isinstance(fill, fx.Node) else c.b.literal(c.num("value"), x.dtype)
    return c.b.apply("where", c.value("mask"), value, x)


@aten("glu.default")
def glu(c: Call) -> Value:
    x, axis = c.value("self"), c.num("dim")
    half = x.shape[axis] // 2
    a, g = c.b.split(x, axis, [half, half])
    return c.b.apply("mul", a, c.b.apply("sigmoid", g))


# -- contractions ----------------------------------------------------------------------------------


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
    equation = str(c.args["equation"]).replace(" ", "")
    tensors = c.list("tensors")
    if "." in equation or "->" not in equation or len(tensors) != 2:
        return None
    left, out = equation.split("->")
    la, lb = left.split(",")
    if len(set(la)) != len(la) or len(set(lb)) != len(lb):
        return None
    return c.b.contract(*tensors, list(map(ord, la)), list(map(ord, lb)), list(map(ord, out)))


@aten("scaled_dot_product_attention.default")
def attention(c: Call) -> Value:
    return c.b.attention(
        c.value("query"), c.value("key"), c.value("value"),
        scale=c.num("scale"), scale_role=("kwargs", "scale"), mask=c.maybe("attn_mask"),
        causal=bool(c.args["is_causal"]),
    )


@aten("convolution.default", "conv1d.default", "conv2d.default", "conv3d.default")
def convolution(c: Call) -> Value | None:
    if c.args.get("transposed"):
        return None
    x = c.value("input")
    w = c.value("weight")
    rank = len(w.shape) - 2
    if len(x.shape) != len(w.shape):
        return None

    def each(name: str) -> list[int]:
        got = c.num(name)
        got = list(got) if isinstance(got, (list, tuple)) else [got]
        return got * rank if len(got) == 1 else got

    return c.b.convolution(
        x, w, c.maybe("bias"), stride=each("stride"), pads=[(p, p) for p in each("padding")],
        dilation=each("dilation"), groups=c.num("groups"), groups_role=c.role("groups"),
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
        c.value("input"), w, c.maybe("bias"), stride=stride, pads=pads, dilation=dilation,
        groups=c.num("groups"), groups_role=c.role("groups"),
    )


@aten("transformers::grouped_mm_fallback.default", "_grouped_mm.default")
def grouped(c: Call) -> Value | None:
    names = list(c.position)
    x, w, ends = (c.maybe(n) for n in names[:3])
    if x is None or w is None or ends is None or len(x.shape) != 2 or len(w.shape) != 3:
        return None
    return c.b.apply("grouped_contract", x, w, ends)


# -- norms -----------------------------------------------------------------------------------------


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


@aten("_native_batch_norm_legit_no_training.default", "batch_norm.default")
def batch_norm(c: Call) -> Any:
    if c.args.get("training"):
        return None
    x = c.value("input")
    mean, var = c.maybe("running_mean"), c.maybe("running_var")
    if mean is None or var is None:
        return None
    ones = [1, x.shape[1], *[1] * (len(x.shape) - 2)]
    eps = c.b.literal(c.num("eps"), x.dtype, c.role("eps"))
    scale = c.b.apply("rsqrt", c.b.apply("add", var, eps))
    y = c.b.apply("sub", x, c.b.reshape(mean, ones))
    y = c.b.apply("mul", y, c.b.reshape(scale, ones))
    y = _affine(c, y, c.maybe("weight"), c.maybe("bias"))
    return [y, None, None] if "legit" in str(c.node.target) else y


def _affine(c: Call, y: Value, weight: Value | None, bias: Value | None) -> Value:
    """Gain and bias over axis one."""
    ones = [1, y.shape[1], *[1] * (len(y.shape) - 2)]
    if weight is not None:
        y = c.b.apply("mul", y, c.b.reshape(weight, ones))
    if bias is not None:
        y = c.b.apply("add", y, c.b.reshape(bias, ones))
    return y
