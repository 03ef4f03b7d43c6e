"""Lowering of ATen: elementwise operators."""

from __future__ import annotations

from torch import fx

from meristem.carriers.aten import Call, aten
from meristem.rewrite.graph import Literal, Value

_UNARY = {
    "neg": "neg",
    "abs": "abs",
    "relu": "relu",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "sign": "sign",
    "reciprocal": "reciprocal",
    "silu": "silu",
    "tanh": "tanh",
    "sin": "sin",
    "cos": "cos",
    "tan": "tan",
    "erf": "erf",
    "expm1": "expm1",
    "log1p": "log1p",
    "exp": "exp",
    "log": "log",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "selu": "selu",
    "floor": "floor",
    "ceil": "ceil",
    "round": "round",
    "trunc": "trunc",
    "logical_not": "not",
    "isnan": "isnan",
    "isinf": "isinf",
    "atan": "atan",
    "clone": "identity",
    "alias": "identity",
    "detach": "identity",
    "contiguous": "identity",
    "lift_fresh_copy": "identity",
    "detach_": "identity",
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


@aten("rrelu.default")
def rrelu(c: Call) -> Value | None:
    """Out of training the slope is the middle of its range."""
    if c.args["training"]:
        return None
    slope = (c.num("lower") + c.num("upper")) / 2
    return c.b.apply("leaky_relu", c.value("self"), options={"slope": slope})


@aten("log_sigmoid.default")
def log_sigmoid(c: Call) -> Value:
    """-log(1 + exp(-x))."""
    down = c.b.apply("neg", c.value("self"))
    return c.b.apply("neg", c.b.apply("softplus", down))


@aten("threshold.default")
def threshold(c: Call) -> Value:
    x = c.value("self")
    above = c.b.apply("gt", x, c.b.literal(c.num("threshold"), x.dtype))
    return c.b.apply("where", above, x, c.b.literal(c.num("value"), x.dtype))


@aten("elu.default")
def elu(c: Call) -> Value | None:
    if c.num("scale") != 1 or c.num("input_scale") != 1:
        return None
    return c.b.apply("elu", c.value("self"), options={"alpha": c.num("alpha")})


@aten("celu.default")
def celu(c: Call) -> Value:
    """alpha * elu(x / alpha)."""
    x, alpha = c.value("self"), float(c.num("alpha"))
    if alpha == 1:
        return c.b.apply("elu", x)
    y = c.b.apply("elu", c.b.apply("mul", x, c.b.literal(1 / alpha, x.dtype)))
    return c.b.apply("mul", y, c.b.literal(alpha, x.dtype))


@aten("softplus.default")
def softplus(c: Call) -> Value:
    return c.b.apply("softplus", c.value("self"), options={"beta": c.num("beta")})


@aten("_to_copy.default", "to.dtype", "to.dtype_layout", "type_as.default", "to.device", "to.other")
def cast(c: Call) -> Value:
    return c.b.apply("cast", c.value("self"), options={"to": c.dtype()}, dtype=c.dtype())


@aten("copy.default", "fill.Tensor", "fill.Scalar")
def written(c: Call) -> Value:
    """What writing over all of a tensor becomes: the written, of the target's axes and dtype."""
    target, dtype = c.value("self"), c.dtype()
    if "Scalar" in str(c.node.target):
        value = float(c.num("value"))
        return c.b.apply("full", target, shape=c.shape(), value=value, dtype=dtype)
    zero = c.b.apply("full", target, shape=c.shape(), value=0.0, dtype=dtype)
    source = c.value("src" if "src" in c.position else "value")
    return c.b.apply("add", zero, c.b.apply("cast", source, options={"to": dtype}, dtype=dtype))


@aten("prelu.default", "_prelu_kernel.default")
def prelu(c: Call) -> Value:
    """max(x, 0) - slope * max(-x, 0); several slopes are those of axis 1."""
    x, slope = c.value("self"), c.value("weight")
    if slope.shape not in ((), (1,)) and "_prelu" not in str(c.node.target):
        shape = [n if a == 1 else 1 for a, n in enumerate(x.shape)]
        slope = c.b.reshape(slope, shape)
    down = c.b.apply("relu", c.b.apply("neg", x))
    return c.b.apply("sub", c.b.apply("relu", x), c.b.apply("mul", slope, down))


_BINARY = {
    "mul": "mul",
    "maximum": "maximum",
    "minimum": "minimum",
    "min": "minimum",
    "max": "maximum",
    "eq": "eq",
    "ne": "ne",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "logical_and": "and",
    "logical_or": "or",
    "logical_xor": "xor",
    "floor_divide": "floor_div",
    "remainder": "mod",
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


@aten("addcmul.default", "addcdiv.default")
def add_product(c: Call) -> Value:
    """self + value * tensor1 * tensor2, or a quotient."""
    kind = "div" if "div" in str(c.node.target) else "mul"
    y = c.b.apply(kind, c.value("tensor1"), c.value("tensor2"))
    if c.num("value") != 1:
        y = c.b.apply("mul", y, c.b.literal(float(c.num("value")), y.dtype))
    return c.b.apply("add", c.value("self"), y)


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


@aten("hardtanh.default")
def hard_tanh(c: Call) -> Value:
    x = c.value("self")
    for name, kind in (("min_val", "maximum"), ("max_val", "minimum")):
        x = c.b.apply(kind, x, c.b.literal(float(c.num(name)), x.dtype, c.role(name)))
    return x


@aten("relu6.default")
def relu6(c: Call) -> Value:
    x = c.b.apply("relu", c.value("self"))
    return c.b.apply("minimum", x, c.b.literal(6.0, x.dtype))


@aten("lerp.Tensor", "lerp.Scalar")
def lerp(c: Call) -> Value:
    x, y = c.value("self"), c.value("end")
    step = c.b.apply("sub", y, x)
    weight = c.args["weight"]
    g = (
        c.value("weight")
        if isinstance(weight, fx.Node)
        else c.b.literal(c.num("weight"), x.dtype, c.role("weight"))
    )
    return c.b.apply("add", x, c.b.apply("mul", g, step))


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
