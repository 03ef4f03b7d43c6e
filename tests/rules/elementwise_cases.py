"""Small graphs around one elementwise operator: each puts it where one of its claims is needed.

``free``: a producer and a consumer; ``zero``: before an RMS norm, so that its zeros count; ``mean``: before
a layer norm; ``scaled``: after a norm, so that its homogeneity counts; ``sign``: before an operator that
needs its sign; ``two``: both operands grow; ``beside``: one operand lacks the grown axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from meristem.rewrite.graph import Graph, Value
from meristem.rewrite.semantics.elementwise import ROWS
from meristem.rewrite.semantics.power import POWER
from tests.rules.view_carrier import Net

ELEMENTWISE = (*ROWS, POWER)

# Attributes without which an operator cannot be built.
ATTRS = {"cast": {"options": {"to": "float64"}, "dtype": "float64"}}
# Operators over integers or booleans.
INTEGER = {"bit_and", "bit_or", "bit_not"}
BOOLEAN = {"not", "and", "or", "xor"}
# What an operand must be for the case itself to be finite.
POSITIVE = {"rsqrt", "reciprocal", "log", "div", "floor_div", "mod"}
NONNEG = {"sqrt", "log1p"}

# Non-negative on non-negative operands, and positive on positive ones (so that the case is finite).
KEEPS_POSITIVE = {
    "identity", "cast", "abs", "relu", "leaky_relu", "sqrt", "rsqrt", "reciprocal", "sign", "gelu",
    "gelu_tanh", "silu", "quick_gelu", "mish", "tanh", "atan", "erf", "elu", "selu", "expm1", "log1p",
    "exp", "sigmoid", "hard_sigmoid", "hard_swish", "softplus", "ceil",
}  # fmt: skip
KEEPS_SIGN = KEEPS_POSITIVE | {"floor", "round", "trunc", "isnan", "isinf"}

Unary = Callable[[Net, Value], Value]


def unary(kind: str) -> Unary:
    return lambda b, x: b.apply(kind, x, **ATTRS.get(kind, {}))


def domain(kind: str, b: Net, x: Value) -> Value:
    """An operand on which the operator is finite."""
    if kind in POSITIVE or kind == "pow":
        return b.apply("exp", x)
    if kind in NONNEG:
        return b.apply("relu", x)
    if kind in INTEGER:
        return b.apply(
            "cast", b.apply("mul", x, b.literal(7.0)), options={"to": "int64"}, dtype="int64"
        )
    if kind in BOOLEAN:
        return b.apply("gt", x, b.literal(0.0))
    return x


def to_float(b: Net, x: Value) -> Value:
    if x.is_float:
        return x
    return b.apply("cast", x, options={"to": "float64"}, dtype="float64")


def _ends(b: Net, y: Value) -> Graph:
    return b.output(b.dense(to_float(b, y), 2))


def unary_cases(kind: str) -> Iterator[tuple[str, Callable[[], Graph]]]:
    f = unary(kind)

    def produced(b: Net) -> Value:
        return domain(kind, b, b.dense(b.input(2, 3), 5))

    def free() -> Graph:
        b = Net()
        return _ends(b, f(b, produced(b)))

    def zero() -> Graph:
        b = Net()
        return _ends(b, b.rms(to_float(b, f(b, produced(b)))))

    def zero_plain() -> Graph:
        """Without the detour by which the operand becomes finite."""
        b = Net()
        return _ends(b, b.rms(to_float(b, f(b, b.dense(b.input(2, 3), 5)))))

    def mean() -> Graph:
        b = Net()
        return _ends(b, b.layer_norm(to_float(b, f(b, produced(b)))))

    def scaled() -> Graph:
        b = Net()
        x = b.rms(b.dense(b.input(2, 3), 5), gain=False)
        if kind in POSITIVE | NONNEG:
            x = b.apply("maximum", b.apply("abs", x), b.literal(0.01))
        elif kind in INTEGER | BOOLEAN:
            x = domain(kind, b, x)
        return _ends(b, f(b, x))

    def sign() -> Graph:
        b = Net()
        return _ends(b, b.apply("sqrt", to_float(b, f(b, b.apply("relu", produced(b))))))

    def sign_strict() -> Graph:
        b = Net()
        y = to_float(b, f(b, b.apply("exp", produced(b))))
        return _ends(b, b.apply("log", y))

    def lucky() -> tuple[Net, Value]:
        """Positive today, though nothing proves it: new coordinates need not be."""
        b = Net()
        bias = np.full(9, 0.02)
        bias[4] = 1.2
        x = b.linear(b.input(2, 3), b.weight(9, 3, spread=1e-3), b.weight(data=bias))
        return b, x

    def any_sign() -> Graph:
        b, x = lucky()
        return _ends(b, f(b, x))

    def claims_sign() -> Graph:
        b, x = lucky()
        return _ends(b, b.apply("sqrt", f(b, x)))

    def integers(then: str) -> Callable[[], Graph]:
        def build() -> Graph:
            b = Net()
            x = b.apply(
                "mul", b.rms(b.dense(b.input(2, 3), 5), gain=then == "mean"), b.literal(3.0)
            )
            x = b.apply("cast", x, options={"to": "int64"}, dtype="int64")
            x = to_float(b, x)
            return _ends(b, b.layer_norm(x) if then == "mean" else x)

        return build

    def zero_of_zero() -> Graph:
        b = Net()
        x = b.apply("isnan", b.dense(b.input(2, 3), 5))
        return _ends(b, b.rms(to_float(b, f(b, x))))

    yield "free", free
    if kind == "not":
        yield "zero of a zero", zero_of_zero
    if kind in POSITIVE | NONNEG:
        yield "free, any sign", any_sign
    if kind in ("gelu", "silu", "sin", "tan", "mish"):
        yield "claims a sign", claims_sign
    if kind == "cast":
        yield "to integers, scaled", integers("scaled")
        yield "to integers, mean", integers("mean")
    yield "zero", zero
    if kind not in POSITIVE | NONNEG | INTEGER | BOOLEAN:
        yield "zero, bare", zero_plain
    yield "mean", mean
    yield "scaled", scaled
    if kind in KEEPS_SIGN:
        yield "sign", sign
    if kind in KEEPS_POSITIVE:
        yield "strict sign", sign_strict


def binary_cases(kind: str) -> Iterator[tuple[str, Callable[[], Graph]]]:
    def pair(b: Net, scaled: bool = False) -> tuple[Value, Value]:
        x = b.input(2, 3)
        left, right = b.dense(x, 5), b.dense(x, 5)
        if scaled:
            left = b.rms(left, gain=False)
        if kind in INTEGER | BOOLEAN:
            left = domain(kind, b, left)
        return left, domain(kind, b, right) if kind != "pow" else b.literal(2.0)

    def apply(b: Net, x: Value, y: Value) -> Value:
        return b.apply(kind, x, y)

    def two() -> Graph:
        b = Net()
        return _ends(b, apply(b, *pair(b)))

    def zero() -> Graph:
        b = Net()
        return _ends(b, b.rms(to_float(b, apply(b, *pair(b)))))

    def mean() -> Graph:
        b = Net()
        return _ends(b, b.layer_norm(to_float(b, apply(b, *pair(b)))))

    def scaled() -> Graph:
        b = Net()
        return _ends(b, apply(b, *pair(b, scaled=True)))

    def both_scaled() -> Graph:
        b = Net()
        h = b.rms(b.dense(b.input(2, 3), 5), gain=False)
        other = b.rms(b.dense(b.input(2, 3), 5), gain=False)
        if kind in POSITIVE:
            other = b.apply("add", b.apply("abs", other), b.literal(1.0))
        if kind in INTEGER | BOOLEAN:
            h, other = domain(kind, b, h), domain(kind, b, other)
        return _ends(b, apply(b, h, other if kind != "pow" else b.literal(3.0)))

    def beside() -> Graph:
        """The second operand is one number, the first grows."""
        b = Net()
        x = b.dense(b.input(2, 3), 5)
        if kind in INTEGER | BOOLEAN:
            x = domain(kind, b, x)
            return _ends(b, apply(b, x, b.literal(True if kind in BOOLEAN else 3, x.dtype)))
        return _ends(b, b.rms(to_float(b, apply(b, x, b.literal(2.0)))))

    def beside_mean() -> Graph:
        b = Net()
        x = b.dense(b.input(2, 3), 5)
        if kind in INTEGER | BOOLEAN:
            x = domain(kind, b, x)
            return _ends(b, apply(b, b.literal(True if kind in BOOLEAN else 3, x.dtype), x))
        return _ends(b, b.layer_norm(to_float(b, apply(b, x, b.literal(3.0)))))

    def first_beside() -> Graph:
        """The first operand is one number, the second grows."""
        b = Net()
        x = b.dense(b.input(2, 3), 5)
        if kind in INTEGER | BOOLEAN:
            x = domain(kind, b, x)
            return _ends(b, apply(b, b.literal(True if kind in BOOLEAN else 3, x.dtype), x))
        if kind in POSITIVE:
            x = b.apply("exp", x)
        return _ends(b, b.layer_norm(to_float(b, apply(b, b.literal(2.0), x))))

    def sign() -> Graph:
        b = Net()
        x = b.input(2, 3)
        left, right = (b.apply("relu", b.dense(x, 5)) for _ in range(2))
        if kind in POSITIVE:
            right = b.apply("add", right, b.literal(0.5))
        right = b.literal(1.5) if kind == "pow" else right
        return _ends(b, b.apply("sqrt", to_float(b, apply(b, left, right))))

    yield "two", two
    yield "zero", zero
    yield "mean", mean
    yield "scaled", scaled
    yield "both scaled", both_scaled
    yield "beside", beside
    yield "beside, mean", beside_mean
    yield "first beside", first_beside
    if kind not in INTEGER | BOOLEAN | {"sub"}:
        yield "sign", sign


def where_cases() -> Iterator[tuple[str, Callable[[], Graph]]]:
    def masked(condition_grows: bool, norm: str) -> Callable[[], Graph]:
        def build() -> Graph:
            b = Net()
            x = b.input(2, 3)
            h, g = b.dense(x, 5), b.dense(x, 5)
            if condition_grows:
                keep = b.apply("gt", b.dense(x, 5), b.literal(0.0))
            else:
                keep = b.apply("gt", b.dense(x, 1), b.literal(0.0))
            y = b.apply("where", keep, h, g)
            return _ends(b, y if not norm else getattr(b, norm)(y))

        return build

    def fill() -> Graph:
        """Zeros instead of a branch, after a norm: the other branch decides the factor."""
        b = Net()
        h = b.rms(b.dense(b.input(2, 3), 5), gain=False)
        keep = b.literal(np.array([[True], [False]]), "bool")
        return _ends(b, b.apply("where", keep, h, b.literal(0.0)))

    def one() -> Graph:
        """A constant branch after a norm: the factor must be undone before."""
        b = Net()
        h = b.rms(b.dense(b.input(2, 3), 5))
        keep = b.literal(np.array([[True], [False]]), "bool")
        return _ends(b, b.apply("where", keep, h, b.literal(1.0)))

    for grows in (False, True):
        for norm in ("", "rms", "layer_norm"):
            yield (
                f"{'grown' if grows else 'broadcast'} condition {norm}".strip(),
                masked(grows, norm),
            )
    yield "zeros", fill
    yield "ones", one


def cases(kind: str) -> dict[str, Callable[[], Graph]]:
    """Every small graph for one elementwise operator."""
    row = next(r for r in ELEMENTWISE if r.kind == kind)
    if kind == "where":
        return dict(where_cases())
    return dict(unary_cases(kind) if row.arity == 1 else binary_cases(kind))
