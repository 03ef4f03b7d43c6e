"""Elementwise ONNX operators."""

from __future__ import annotations

from functools import reduce

import numpy as np
import onnx_ir as ir

from meristem.carriers.onnx_ops import Call, Declined, onnx
from meristem.carriers.onnx_values import dtype_name
from meristem.rewrite.graph import Literal, Value

_UNARY = {
    "Abs": "abs",
    "Neg": "neg",
    "Relu": "relu",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Sign": "sign",
    "Tanh": "tanh",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Atan": "atan",
    "Erf": "erf",
    "Exp": "exp",
    "Log": "log",
    "Sigmoid": "sigmoid",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Not": "not",
    "IsNaN": "isnan",
    "Identity": "identity",
    "Mish": "mish",
    "Softplus": "softplus",
    "HardSwish": "hard_swish",
    "BitwiseNot": "bit_not",
}
_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Pow": "pow",
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "BitwiseAnd": "bit_and",
    "BitwiseOr": "bit_or",
}
_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _unary(c: Call) -> Value:
    return c.b.apply(_UNARY[c.node.op_type], c.x(0))


def _binary(c: Call) -> Value:
    if c.attr("broadcast"):
        raise Declined("broadcasting of opset 6")
    x, y = c.x(0), c.x(1)
    if c.node.op_type == "Pow":
        return c.b.apply("pow", x, y, dtype=x.dtype)
    return c.b.apply(_BINARY[c.node.op_type], x, y)


def _variadic(c: Call) -> Value:
    kind = _VARIADIC[c.node.op_type]
    return reduce(lambda a, b: c.b.apply(kind, a, b), [c.x(i) for i in range(len(c))])


for _name in _UNARY:
    onnx(_name)(_unary)
for _name in _BINARY:
    onnx(_name)(_binary)
for _name in _VARIADIC:
    onnx(_name)(_variadic)


@onnx("Mean")
def mean(c: Call) -> Value:
    total = _sum_of(c)
    return c.b.apply("div", total, c.b.operand(float(len(c)), total))


def _sum_of(c: Call) -> Value:
    return reduce(lambda a, b: c.b.apply("add", a, b), [c.x(i) for i in range(len(c))])


@onnx("Div")
def div(c: Call) -> Value:
    """Integers divide towards zero."""
    x, y = c.x(0), c.x(1)
    if x.is_float:
        return c.b.apply("div", x, y)
    if isinstance(x, Literal) and isinstance(y, Literal):
        return folded(c, [x, y], np.trunc(x.data / y.data).astype(np.int64), x.dtype)
    exact = [to_type(c, v, "float64") for v in (x, y)]
    return to_type(c, c.b.apply("trunc", c.b.apply("div", *exact)), x.dtype)


def folded(c: Call, sources: list[Value], data: np.ndarray, dtype: str) -> Literal:
    """A constant computed here from constants."""
    out = c.b.literal(data, dtype)
    return c.b.moves(out, any(v in c.b.moving for v in sources))


@onnx("Mod")
def mod(c: Call) -> Value:
    x, y = c.x(0), c.x(1)
    if not c.attr("fmod", 0):
        return c.b.apply("mod", x, y)
    whole = c.b.apply("trunc", c.b.apply("div", x, y))
    return c.b.apply("sub", x, c.b.apply("mul", whole, y))


@onnx("Where")
def where(c: Call) -> Value:
    return c.b.apply("where", c.x(0), c.x(1), c.x(2))


def to_type(c: Call, x: Value, dtype: str) -> Value:
    """A cast in the view."""
    return c.b.apply("cast", x, dtype=dtype, options={"to": dtype})


@onnx("Cast")
def cast(c: Call) -> Value:
    return to_type(c, c.x(0), dtype_name(ir.DataType(c.attr("to"))))


@onnx("CastLike")
def cast_like(c: Call) -> Value:
    return to_type(c, c.x(0), c.x(1).dtype)


@onnx("Dropout")
def dropout(c: Call) -> list[Value]:
    """The identity when not training; the mask is all true."""
    if c.has(2) and bool(np.any(c.const(2))):
        raise Declined("training mode")
    x = c.x(0)
    out = [c.b.apply("identity", x)]
    if c.wants(1):
        out.append(c.b.apply("full", shape=x.shape, value=True, dtype="bool"))
    return out


@onnx("Gelu")
def gelu(c: Call) -> Value:
    return c.b.apply("gelu_tanh" if c.attr("approximate", "none") == "tanh" else "gelu", c.x(0))


@onnx("Gelu", domain="com.microsoft")
def gelu_microsoft(c: Call) -> Value:
    return c.b.apply("gelu", c.x(0))


@onnx("FastGelu", domain="com.microsoft")
def fast_gelu(c: Call) -> Value:
    x = c.x(0)
    return c.b.apply("gelu_tanh", c.b.apply("add", x, c.x(1)) if c.has(1) else x)


@onnx("QuickGelu", domain="com.microsoft")
def quick_gelu(c: Call) -> Value:
    if not np.isclose(c.attr("alpha", 1.702), 1.702, atol=1e-6):
        raise Declined("another slope")
    return c.b.apply("quick_gelu", c.x(0))


@onnx("Swish")
def swish(c: Call) -> Value:
    alpha, x = float(c.attr("alpha", 1.0)), c.x(0)
    if alpha == 1.0:
        return c.b.apply("silu", x)
    gate = c.b.apply("sigmoid", c.b.apply("mul", x, c.b.operand(alpha, x)))
    return c.b.apply("mul", x, gate)


@onnx("Elu")
def elu(c: Call) -> Value:
    return c.b.apply("elu", c.x(0), options={"alpha": float(c.attr("alpha", 1.0))})


@onnx("LeakyRelu")
def leaky_relu(c: Call) -> Value:
    return c.b.apply("leaky_relu", c.x(0), options={"slope": float(c.attr("alpha", 0.01))})


@onnx("Selu")
def selu(c: Call) -> Value:
    if "alpha" in c.node.attributes or "gamma" in c.node.attributes:
        alpha, gamma = c.attr("alpha", 1.6732632), c.attr("gamma", 1.050701)
        y = c.b.apply("elu", c.x(0), options={"alpha": float(alpha)})
        return c.b.apply("mul", y, c.b.operand(float(gamma), y))
    return c.b.apply("selu", c.x(0))


@onnx("PRelu")
def prelu(c: Call) -> Value:
    """max(x, 0) - slope * max(-x, 0): a sum and a product, so zeros and slopes keep their rules."""
    x, slope = c.x(0), c.x(1)
    down = c.b.apply("relu", c.b.apply("neg", x))
    return c.b.apply("sub", c.b.apply("relu", x), c.b.apply("mul", slope, down))


@onnx("HardSigmoid")
def hard_sigmoid(c: Call) -> Value:
    alpha, beta, x = float(c.attr("alpha", 0.2)), float(c.attr("beta", 0.5)), c.x(0)
    if np.isclose(alpha, 1 / 6, atol=1e-6) and beta == 0.5:
        return c.b.apply("hard_sigmoid", x)
    y = c.b.apply("mul", x, c.b.operand(alpha, x))
    y = c.b.apply("add", y, c.b.operand(beta, x))
    y = c.b.apply("maximum", y, c.b.operand(0.0, x))
    return c.b.apply("minimum", y, c.b.operand(1.0, x))


@onnx("Softsign")
def softsign(c: Call) -> Value:
    x = c.x(0)
    return c.b.apply("div", x, c.b.apply("add", c.b.apply("abs", x), c.b.operand(1.0, x)))


@onnx("IsInf")
def is_inf(c: Call) -> Value:
    if not (c.attr("detect_negative", 1) and c.attr("detect_positive", 1)):
        raise Declined("one sign only")
    return c.b.apply("isinf", c.x(0))


@onnx("Clip")
def clip(c: Call) -> Value:
    """Bounds are inputs from opset 11, attributes before."""
    y = c.x(0)
    for i, name, kind in ((1, "min", "maximum"), (2, "max", "minimum")):
        if c.has(i):
            y = c.b.apply(kind, y, c.x(i))
        elif c.attr(name) is not None:
            y = c.b.apply(kind, y, c.b.literal(float(c.attr(name)), y.dtype, ("attr", name)))
    return c.b.apply("identity", y) if y is c.x(0) else y
