"""Elementwise operators: rows of one table, with broadcasting.

A row states its numpy function, how a zero passes (``keep``: f(0) = 0; ``any``: a product;
``all``: a sum; ``first``: a quotient; ``none``), whether it is linear in each operand, how a
positive factor passes (a degree for one operand, ``product``/``quotient`` for two, ``equal`` where
operands must carry the same, ``compare`` where they must and the result carries none, ``none``
where the factor must be one), and the sign of its result. A zero of the proof may be 1e-17 in fact
(a mean less itself), so it passes only where f is continuous at zero: not through ``sign``,
``floor``, ``ceil``, ``mod``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of, any_of
from meristem.rewrite.graph import Array, Literal, Op, Shape, Value, Weight
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.scale import NONE, Linear
from meristem.rewrite.semantics import signs
from meristem.rewrite.semantics.functions import (
    cast,
    elu,
    erf,
    floor_divide,
    gelu,
    gelu_tanh,
    leaky_relu,
    sigmoid,
    softplus,
)
from meristem.rewrite.shares import stored_behind

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations


@dataclass(frozen=True)
class Row(Base):
    """Semantics of one elementwise operator; see the module's text for the fields."""

    kind: str
    arity: int
    function: Callable[..., Array]
    zero: str = "none"
    linear: bool = False
    scale: str | float = "none"
    sign: Callable[..., signs.Sign] | None = None
    domain: str = ""  # "pos" or "nonneg": what the last operand must be on fresh coordinates
    result: str = ""  # dtype of the result where it is not the operands'
    flat: bool = False  # at zero both the value and its gradient are zero
    idempotent: bool = False  # f(f(x)) = f(x), with the same second operand where there is one

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [tuple(np.broadcast_shapes(*(v.shape for v in inputs)))]

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        if attrs.get("dtype"):
            return str(attrs["dtype"])
        if self.result:
            return self.result
        values = inputs[1:] if self.kind == "where" else inputs
        return max(values, key=lambda v: (len(v.shape) > 0, _rank(v.dtype))).dtype

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        with np.errstate(all="ignore"):
            out = self.function(*arrays, **op.attrs.get("options", {}))
        return [np.asarray(out)]

    def axes(self, op: Op, eq: Equations) -> None:
        shape = op.output.shape
        out: list[Term | None] = [None] * len(shape)
        for v in op.inputs:
            skip = len(shape) - len(v.shape)
            for i, t in enumerate(eq.of(v)):
                if t.size != 1:
                    known = out[skip + i]
                    if known is None:
                        out[skip + i] = t
                    else:
                        eq.equal(known, t)
        eq.set(
            op.output, [t if t is not None else Term(n) for t, n in zip(out, shape, strict=True)]
        )

    def transfer(self, op: Op, flow: Flow) -> None:
        views = operand_views(op, flow)
        # Of the factors that could be zero the last is taken; incoming zeros are computed, not stored.
        last = sorted(range(len(views)), key=lambda i: not stored_behind(op.inputs[i]))

        def make(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            cells = [view(index, fresh) for view in views]
            if self.domain:
                self._check_domain(op, flow, cells[-1], fresh)
            nonneg, pos = self.sign(*cells) if self.sign else (FALSE, FALSE)
            scale = self._scale(op, flow, cells)
            if not fresh:
                zero = self._zero(cells) if scale is None else FALSE
                return Cell(zero, (), scale, nonneg, pos)
            twins = tuple(self._twin(op, flow, cells, k, atom) for k, (_, atom) in enumerate(fresh))
            opposites = tuple(self._opposite(cells, k) for k in range(len(fresh)))
            incoming = any(flow.growth.strategy(atom) == "incoming" for _, atom in fresh)
            zero = self._zero(
                [cells[i] for i in last] if incoming and self.zero == "any" else cells
            )
            return Cell(zero, twins, None, nonneg, pos, opposites, self._stuck(cells))

        flow.set(op.output, flow.build(op.output, make))

    def _check_domain(
        self, op: Op, flow: Flow, cell: Cell, fresh: Sequence[tuple[int, int]]
    ) -> None:
        """0/0 at a fresh coordinate is NaN, and NaN * 0 reaches the old outputs."""
        if not fresh or not any(t is not TRUE for t in cell.twins):
            return  # old operands stay what they were
        need = cell.pos if self.domain == "pos" else cell.nonneg
        if all(flow.growth.copies(atom) for _, atom in fresh):
            need = any_of([need, all_of(cell.twins)])  # then they are old ones
        word = "positive" if self.domain == "pos" else "non-negative"
        flow.oblige(need, f"needs a {word} operand, which is not proved at the new coordinates")

    def _zero(self, cells: Sequence[Cell]) -> Formula:
        if self.zero == "none":
            return FALSE
        if self.zero in ("keep", "first"):
            return cells[0].zero
        parts = [c.zero for c in (cells[1:] if self.kind == "where" else cells)]
        return any_of(reversed(parts)) if self.zero == "any" else all_of(parts)

    def _twin(self, op: Op, flow: Flow, cells: Sequence[Cell], k: int, atom: int) -> Formula:
        if flow.growth.strategy(atom) == "mean":
            carriers = [c for c in cells if c.twins[k] is not TRUE]
            if not self.linear:
                return FALSE
            if self.zero in ("any", "first") and len(carriers) != 1:
                return FALSE  # a product of two means is not the mean of products
            if self.zero == "first" and carriers[0] is not cells[0]:
                return FALSE
        return all_of(c.twins[k] for c in cells)

    def _opposite(self, cells: Sequence[Cell], k: int) -> Formula:
        """Opposite halves pass what is linear in them: all terms of a sum, one factor of a product."""
        if not self.linear:
            return FALSE
        if self.zero == "any":
            return any_of(
                all_of(c.opposite(k) if m == n else c.twins[k] for m, c in enumerate(cells))
                for n in range(len(cells))
            )
        if self.zero == "first":
            return all_of([cells[0].opposite(k), *(c.twins[k] for c in cells[1:])])
        return all_of(c.opposite(k) for c in cells) if self.kind != "where" else FALSE

    def _stuck(self, cells: Sequence[Cell]) -> Formula:
        """Zero, and no gradient passes: behind a flat function, or where both factors are zero."""
        if self.flat:
            return cells[0].zero
        if self.zero in ("keep", "first"):
            return cells[0].stuck
        if self.zero == "any":
            return any_of([*(c.stuck for c in cells), all_of(c.zero for c in cells)])
        terms = cells[1:] if self.kind == "where" else cells
        return all_of(c.stuck for c in terms) if self.zero == "all" else FALSE

    def _scale(self, op: Op, flow: Flow, cells: Sequence[Cell]) -> Linear | None:
        scales = [c.scale for c in cells]
        if self.kind == "where":
            return flow.equal_scales(scales[1:], "joins two branches")
        if isinstance(self.scale, float):
            return None if scales[0] is None else scales[0] * self.scale
        if self.scale == "compare":
            flow.equal_scales(scales, "compares its operands")
            return NONE
        if self.scale == "equal":
            if self.kind == "add" and len(scales) == 2 and _shifted(op, flow) is not None:
                return scales[_shifted(op, flow) or 0]
            return flow.equal_scales(scales, "joins its operands")
        if self.scale == "product":
            return None if None in scales else scales[0] + scales[1]  # type: ignore[operator]
        if self.scale == "quotient":
            return None if None in scales else scales[0] - scales[1]  # type: ignore[operator]
        if self.scale == "power":
            exponent = op.inputs[1]
            if isinstance(exponent, Literal) and exponent.data.size == 1 and scales[0] is not None:
                return scales[0] * float(exponent.data.flat[0])
        for s in scales:
            flow.require_unscaled(s, "is not homogeneous")
        return NONE

    def poles(self, op: Op) -> tuple[int, ...]:
        return (self.arity - 1,) if self.domain == "pos" or self.kind == "sqrt" else ()

    def stalls(self, op: Op) -> tuple[int, ...]:
        return (0,) if self.flat else ()

    def vanishes(self, op: Op) -> Vanishing:
        if self.zero in ("keep", "first"):
            return Vanishing((0,))
        if self.zero == "none":
            return Vanishing()
        skip = 1 if self.kind == "where" else 0
        return Vanishing(tuple(range(skip, len(op.inputs))), any=self.zero == "any")


def _shifted(op: Op, flow: Flow) -> int | None:
    """Which operand of ``literal + w`` is a shifted weight, if any (see Flow._note_shift)."""
    for i, value in enumerate(op.inputs):
        v = value
        while v.producer is not None and v.producer.kind in ("cast", "identity"):
            v = v.producer.inputs[0]
        if isinstance(v, Weight) and v in flow.shifts and isinstance(op.inputs[1 - i], Literal):
            return i
    return None


def _rank(dtype: str) -> int:
    for i, word in enumerate(("bool", "int", "uint", "float", "bfloat", "complex")):
        if dtype.startswith(word):
            return i * 100 + int("".join(filter(str.isdigit, dtype)) or 0)
    return -1


def operand_views(
    op: Op, flow: Flow
) -> list[Callable[[tuple[int, ...], Sequence[tuple[int, int]]], Cell]]:
    """For every operand: its cell at a block of the result, twins completed for absent axes.

    An operand that lacks an axis is constant along it, hence equal to the mean of the old and to any
    copy of it; it is not zero by virtue of that axis.
    """
    rank = len(op.output.shape)
    out: list[Any] = []
    for v in op.inputs:
        cells = flow.of(v)
        skip = rank - len(v.shape)
        present = [i >= skip and (v.shape[i - skip] == op.output.shape[i]) for i in range(rank)]
        for i, own in enumerate(flow.grid(v)):
            if present[skip + i]:
                cells = flow.meet(cells, i, own, flow.grid(op.output)[skip + i])

        def view(
            index: tuple[int, ...],
            fresh: Sequence[tuple[int, int]],
            cells: Any = cells,
            skip: int = skip,
            present: list[bool] = present,
        ) -> Cell:
            cell: Cell = cells[
                tuple(i if present[skip + a] else 0 for a, i in enumerate(index[skip:]))
            ]
            if not fresh:
                return cell
            number = itertools.count()
            own = [next(number) if present[axis] else None for axis, _ in fresh]
            twins = tuple(TRUE if k is None else cell.twins[k] for k in own)
            opposites = tuple(FALSE if k is None else cell.opposite(k) for k in own)
            return replace(cell, twins=twins, opposites=opposites)

        out.append(view)
    return out


@dataclass(frozen=True)
class Cast(Row):
    """To another dtype. Floats as integers or booleans are neither linear nor homogeneous."""

    def transfer(self, op: Op, flow: Flow) -> None:
        to_bool = op.output.dtype.startswith("bool")
        if to_bool or (op.inputs[0].is_float and not op.output.is_float):
            sign = (lambda x: (x.nonneg, FALSE)) if not to_bool else signs.nonneg
            zero = "none" if to_bool else "keep"
            Row(self.kind, 1, self.function, zero, sign=sign).transfer(op, flow)
        else:
            super().transfer(op, flow)


ROWS = [
    Row("identity", 1, np.asarray, "keep", True, 1.0, signs.same, idempotent=True),
    Cast("cast", 1, cast, "keep", True, 1.0, signs.same),
    Row("neg", 1, np.negative, "keep", True, 1.0),
    Row("abs", 1, np.abs, "keep", False, 1.0, signs.nonneg, flat=True, idempotent=True),
    Row(
        "relu",
        1,
        lambda x: np.maximum(x, 0),
        "keep",
        False,
        1.0,
        signs.nonneg,
        flat=True,
        idempotent=True,
    ),
    Row("leaky_relu", 1, leaky_relu, "keep", False, 1.0),
    Row("sqrt", 1, np.sqrt, "keep", False, 0.5, signs.same, "nonneg"),
    Row("rsqrt", 1, lambda x: 1 / np.sqrt(x), "none", False, -0.5, signs.positive, "pos"),
    Row("reciprocal", 1, lambda x: 1 / x, "none", False, -1.0, signs.reciprocal_sign, "pos"),
    Row("sign", 1, np.sign, scale=0.0, sign=signs.same, idempotent=True),
    Row("gelu", 1, gelu, "keep"),
    Row("gelu_tanh", 1, gelu_tanh, "keep"),
    Row("silu", 1, lambda x: x * sigmoid(x), "keep"),
    Row("quick_gelu", 1, lambda x: x * sigmoid(1.702 * x), "keep"),
    Row("mish", 1, lambda x: x * np.tanh(softplus(x)), "keep"),
    Row("tanh", 1, np.tanh, "keep", sign=signs.same),
    Row("sin", 1, np.sin, "keep"),
    Row("cos", 1, np.cos),
    Row("tan", 1, np.tan, "keep"),
    Row("atan", 1, np.arctan, "keep", sign=signs.same),
    Row("erf", 1, erf, "keep", sign=signs.same),
    Row("elu", 1, elu, "keep"),
    Row("selu", 1, lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772), "keep"),
    Row("expm1", 1, np.expm1, "keep", sign=signs.same),
    Row("log1p", 1, np.log1p, "keep", sign=signs.same, domain="nonneg"),
    Row("exp", 1, np.exp, sign=signs.positive),
    Row("log", 1, np.log, domain="pos"),
    Row("sigmoid", 1, sigmoid, sign=signs.positive),
    Row("hard_sigmoid", 1, lambda x: np.clip(x / 6 + 0.5, 0, 1), sign=signs.nonneg),
    Row("hard_swish", 1, lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "keep"),
    Row("softplus", 1, softplus, sign=signs.positive),
    Row("floor", 1, np.floor, idempotent=True),
    Row("ceil", 1, np.ceil, idempotent=True),
    Row("round", 1, np.round, "keep", idempotent=True),
    Row("trunc", 1, np.trunc, "keep", idempotent=True),
    Row("not", 1, np.logical_not, result="bool", sign=signs.nonneg),
    Row("isnan", 1, np.isnan, "keep", scale=0.0, result="bool"),
    Row("isinf", 1, np.isinf, "keep", scale=0.0, result="bool"),
    Row("add", 2, np.add, "all", True, "equal", signs.sum_sign),
    Row("sub", 2, np.subtract, "all", True, "equal"),
    Row("mul", 2, np.multiply, "any", True, "product", signs.product_sign),
    Row("div", 2, np.divide, "first", True, "quotient", domain="pos"),
    Row("floor_div", 2, floor_divide, domain="pos"),
    Row("mod", 2, np.mod, domain="pos"),
    Row("maximum", 2, np.maximum, "all", False, "equal", signs.max_sign, idempotent=True),
    Row("minimum", 2, np.minimum, "all", False, "equal", signs.min_sign, idempotent=True),
    *(
        Row(kind, 2, function, scale="compare", result="bool", sign=signs.nonneg)
        for kind, function in (
            ("eq", np.equal),
            ("ne", np.not_equal),
            ("lt", np.less),
            ("le", np.less_equal),
            ("gt", np.greater),
            ("ge", np.greater_equal),
            ("and", np.logical_and),
            ("or", np.logical_or),
            ("xor", np.logical_xor),
        )
    ),
    Row("bit_and", 2, np.bitwise_and),
    Row("bit_or", 2, np.bitwise_or),
    Row("bit_not", 1, np.invert),
    Row("where", 3, np.where, "all", True, "where", signs.pick),
]
for _row in ROWS:
    register(_row.kind, _row)
