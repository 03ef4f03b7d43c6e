"""Wrong rows of the elementwise table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meristem.rewrite.semantics import elementwise, signs
from tests.rules.mutation import method, mutant, nothing, rows

# -- elementwise: zeros, linearity, homogeneity, signs, domains ---------------------------------------

rows(
    "f(0) = 0 flipped",
    ("cos", "exp", "sigmoid", "softplus", "hard_sigmoid"),
    "zero, bare",
    zero="keep",
)
rows("f(0) = 0 flipped", ("not",), "zero of a zero", zero="keep")
rows("f(0) = 0 flipped", ("bit_not",), "zero", zero="keep")
rows("a sum is a product", ("add", "sub", "maximum", "minimum"), "zero", zero="any")
rows("a zero through a number", ("add", "sub", "maximum"), "beside", zero="first")
rows(
    "linear", ("relu", "gelu", "silu", "tanh", "abs", "exp", "sigmoid", "leaky_relu"), "mean",
    linear=True,
)  # fmt: skip
rows("linear", ("maximum", "minimum"), "mean", linear=True)
rows(
    "homogeneous", ("gelu", "silu", "tanh", "sin", "exp", "sigmoid", "erf", "elu", "softplus", "floor"),
    "scaled", scale=1.0,
)  # fmt: skip
rows("a wrong degree", ("sqrt", "reciprocal", "rsqrt"), "scaled", scale=1.0)
rows("a wrong degree", ("abs", "relu", "leaky_relu", "neg", "identity"), "scaled", scale=2.0)
rows("no factor", ("relu", "abs", "neg"), "scaled", scale=0.0)
rows("the divisor's factor the wrong way", ("div",), "both scaled", scale="product")
rows("a product's second factor", ("mul",), "both scaled", scale="equal")
rows("a sum of factors", ("add", "sub", "maximum", "minimum"), "scaled", scale="product")
rows("comparisons carry the factor", ("gt", "lt", "ge", "le", "ne"), "both scaled", scale="equal")
rows("domain dropped", ("sqrt", "log"), "free, any sign", domain="")
rows("sign", ("gelu", "silu", "tan", "sin", "mish"), "claims a sign", sign=signs.nonneg)


@mutant("pow: degree of its exponent", "pow: scaled")
def _(m: pytest.MonkeyPatch) -> None:
    old = elementwise.Row._scale

    def scale(self: Any, op: Any, flow: Any, cells: Any) -> Any:
        return cells[0].scale if self.scale == "power" else old(self, op, flow, cells)

    m.setattr(elementwise.Row, "_scale", scale)


mutant("pow: domain dropped", "pow: exponents that are weights")(
    method(elementwise.Row, "_check_domain", nothing)
)
mutant("domain checks dropped", "holes: 0/0 at new coordinates")(
    method(elementwise.Row, "_check_domain", nothing)
)
mutant("a cast to integers is linear", "cast: to integers, mean", "cast: to integers, scaled")(
    method(elementwise.Cast, "transfer", elementwise.Row.transfer)
)


@mutant("a product of means is a mean", "mul: mean")
def _(m: pytest.MonkeyPatch) -> None:
    old = elementwise.Row._twin

    def twin(self: Any, op: Any, flow: Any, cells: Any, k: int, atom: int) -> Any:
        return old(
            replace(self, zero="keep") if self.kind == "mul" else self, op, flow, cells, k, atom
        )

    m.setattr(elementwise.Row, "_twin", twin)


@mutant("elementwise tie dropped", "norm: residual stream, rms", "add: two")
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(
        elementwise.Row, "axes", lambda self, op, eq: eq.set(op.output, list(eq.of(
            max(op.inputs, key=lambda v: len(v.shape) * 1000 + sum(v.shape))
        )))
    )  # fmt: skip


@mutant(
    "a broadcast operand gives its zero", "add: beside", "range: beside a norm", "pad: another axis"
)
def _(m: pytest.MonkeyPatch) -> None:
    old = elementwise.Row._zero
    m.setattr(
        elementwise.Row, "_zero",
        lambda self, cells: cells[0].zero if self.kind == "add" else old(self, cells),
    )  # fmt: skip
