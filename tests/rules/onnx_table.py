"""ONNX nodes that lower to kinds of the vocabulary: (operator, operands, attributes)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((2, 3, 4)).astype(np.float32)
P = np.exp(X)
N = RNG.integers(1, 9, (2, 3, 4))
V = RNG.standard_normal(4).astype(np.float32)
B = X > 0


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Node:
    """``operands`` are inputs of the model; those in ``constants`` are initialisers."""

    op: str
    operands: tuple[Any, ...]
    constants: tuple[Any, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    outputs: int = 1


def unary(op: str, x: Any = X, **attrs: Any) -> Node:
    return Node(op, (x,), attrs=attrs)


ONNX: dict[str, list[Node]] = {
    "contract": [
        Node("MatMul", (X,), (RNG.standard_normal((4, 5)).astype(np.float32),)),
        Node("Einsum", (X, Y), attrs={"equation": "bti,bsi->bts"}),
        Node("Gemm", (X[0],), (Y[0], V[:3]), {"transB": 1}),
    ],
    "conv": [
        Node("Conv", (X,), (RNG.standard_normal((6, 3, 3)).astype(np.float32),), {"pads": [1, 0]}),
        Node(
            "Conv", (RNG.standard_normal((2, 4, 6)).astype(np.float32),),
            (RNG.standard_normal((6, 2, 3)).astype(np.float32),),
            {"group": 2, "strides": [2], "dilations": [2], "pads": [2, 2]},
        ),
    ],
    "identity": [unary("Identity")],
    "cast": [unary("Cast", to=7), unary("Cast", to=9)],
    "neg": [unary("Neg")],
    "abs": [unary("Abs")],
    "relu": [unary("Relu")],
    "leaky_relu": [unary("LeakyRelu", alpha=0.2)],
    "sqrt": [unary("Sqrt", P)],
    "reciprocal": [unary("Reciprocal", P)],
    "sign": [unary("Sign")],
    "gelu": [unary("Gelu")],
    "gelu_tanh": [unary("Gelu", approximate="tanh")],
    "quick_gelu": [Node("QuickGelu", (X,), domain="com.microsoft")],
    "mish": [unary("Mish")],
    "tanh": [unary("Tanh")],
    "sin": [unary("Sin")],
    "cos": [unary("Cos")],
    "tan": [unary("Tan", X * 0.3)],
    "atan": [unary("Atan")],
    "erf": [unary("Erf")],
    "elu": [unary("Elu", alpha=0.7)],
    "exp": [unary("Exp")],
    "log": [unary("Log", P)],
    "sigmoid": [unary("Sigmoid")],
    "hard_sigmoid": [unary("HardSigmoid", alpha=1 / 6, beta=0.5)],
    "hard_swish": [unary("HardSwish")],
    "softplus": [unary("Softplus")],
    "floor": [unary("Floor", 3 * X)],
    "ceil": [unary("Ceil", 3 * X)],
    "round": [unary("Round", 3 * X)],
    "not": [unary("Not", B)],
    "isnan": [unary("IsNaN")],
    "isinf": [unary("IsInf")],
    "add": [Node("Add", (X, Y)), Node("Add", (X,), (V,))],
    "sub": [Node("Sub", (X, Y))],
    "mul": [Node("Mul", (X,), (V,))],
    "div": [Node("Div", (X, P))],
    "mod": [Node("Mod", (N, N[:, ::-1].copy()))],
    "maximum": [Node("Max", (X, Y))],
    "minimum": [Node("Min", (X, Y)), Node("Clip", (X,), (np.float32(-0.2), np.float32(0.4)))],
    "pow": [Node("Pow", (P,), (np.float32(1.7),))],
    "eq": [Node("Equal", (N, N.transpose(0, 1, 2)[::-1].copy()))],
    "lt": [Node("Less", (X, Y))],
    "le": [Node("LessOrEqual", (X, Y))],
    "gt": [Node("Greater", (X, Y))],
    "ge": [Node("GreaterOrEqual", (X, Y))],
    "and": [Node("And", (B, Y > 0))],
    "or": [Node("Or", (B, Y > 0))],
    "xor": [Node("Xor", (B, Y > 0))],
    "bit_and": [Node("BitwiseAnd", (N, N + 3))],
    "bit_or": [Node("BitwiseOr", (N, N + 3))],
    "bit_not": [unary("BitwiseNot", N)],
    "where": [Node("Where", (B, X, Y))],
    "take": [
        Node("Gather", (X,), (ints(2, 0, -1),), {"axis": 2}),
        Node("Gather", (N % 3,), (ints(1, 1),), {"axis": 0}),
    ],
    "take_many": [Node("GatherND", (X,), (np.array([[0, 1], [1, 2]]),))],
    "take_along": [Node("GatherElements", (X, N % 3), attrs={"axis": 1})],
    "scatter": [
        Node("ScatterElements", (X, N[:, :2] % 3, Y[:, :2]), attrs={"axis": 1, "reduction": "add"}),
        Node("ScatterND", (X,), (np.array([[0, 1], [1, -1], [0, 0]]), Y[0])),
    ],
    "reshape": [
        Node("Reshape", (X,), (ints(2, -1),)),
        Node("Flatten", (X,), attrs={"axis": 2}),
        Node("Unsqueeze", (X,), (ints(1),)),
    ],
    "permute": [Node("Transpose", (X,), attrs={"perm": [2, 0, 1]})],
    "expand": [Node("Expand", (X[:, :1],), (ints(2, 3, 4),)), Node("Tile", (X,), (ints(1, 2, 1),))],
    "slice": [
        Node("Slice", (X,), (ints(1), ints(4), ints(2), ints(2))),
        Node("Split", (X,), (ints(1, 3),), {"axis": 2}, outputs=2),
    ],
    "concat": [Node("Concat", (X, Y), attrs={"axis": 1})],
    "pad": [Node("Pad", (X,), (ints(0, 1, 0, 0, 0, 2), np.float32(0.5)))],
    "norm": [
        Node("LayerNormalization", (X,), (V, V + 1), {"epsilon": 0.1}),
        Node("RMSNormalization", (X,), (V,), {"epsilon": 0.1}),
    ],
    "pool": [
        Node("MaxPool", (X,), attrs={"kernel_shape": [2], "strides": [2]}),
        Node("AveragePool", (X,), attrs={"kernel_shape": [3], "strides": [1]}),
    ],
    "sum": [
        Node("ReduceSum", (X,), (ints(2),), {"keepdims": 1}),
        Node("ReduceMean", (X,), (ints(0, 2),), {"keepdims": 0}),
        Node("ReduceL2", (X,), (ints(1),), {"keepdims": 1}),
    ],
    "extremum": [
        Node("ReduceMax", (X,), (ints(2),), {"keepdims": 0}),
        Node("ArgMax", (X,), attrs={"axis": 1, "keepdims": 0}),
    ],
    "softmax": [unary("Softmax", axis=-1), unary("LogSoftmax", axis=1)],
    "scan": [
        Node("CumSum", (X,), (np.array(1),)),
        Node("Trilu", (X,), attrs={"upper": 0}),
        Node("TopK", (X,), (ints(2),), {"axis": -1}, outputs=2),
    ],
}  # fmt: skip
# Kinds that no ONNX operator lowers to by itself.
NOT_IN_ONNX = {
    "opaque", "grouped_contract", "rsqrt", "silu", "selu", "expm1", "log1p", "trunc", "ne", "floor_div",
    "full", "range", "rearrange",
}  # fmt: skip
