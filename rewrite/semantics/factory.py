"""Operators that make tensors from sizes alone: constants, ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, register
from meristem.rewrite.scale import NONE

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import SizeEdit, Sizes


@dataclass(frozen=True)
class Full(Base):
    """A tensor of ``shape`` filled with ``value``; with the axes of its operand where it has one."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [tuple(attrs["shape"])]

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        return str(attrs["dtype"])

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        dtype = op.attrs["dtype"]
        kind = np.float64 if dtype.startswith(("float", "bfloat")) else np.dtype(dtype)
        return [np.full(op.output.shape, op.attrs["value"], kind)]

    def axes(self, op: Op, eq: Equations) -> None:
        if op.inputs:
            eq.set(op.output, eq.of(op.inputs[0]))
        else:
            eq.of(op.output)

    def transfer(self, op: Op, flow: Flow) -> None:
        value = float(op.attrs["value"])
        zero = TRUE if value == 0 else FALSE
        nonneg, pos = TRUE if value >= 0 else FALSE, TRUE if value > 0 else FALSE
        scale = None if value == 0 or np.isinf(value) else NONE
        flow.set(
            op.output,
            flow.build(
                op.output,
                lambda _, fresh: Cell(
                    zero, (TRUE,) * len(fresh), None if fresh else scale, nonneg, pos
                ),
            ),
        )

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        return sizes.vector(op, "shape", sizes.terms(op.output))


@dataclass(frozen=True)
class Range(Base):
    """start, start + step, ... of a given length; may only grow at its end."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [(attrs["length"],)]

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        return str(attrs["dtype"])

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        at = op.attrs
        kind = np.float64 if at["dtype"].startswith(("float", "bfloat")) else np.dtype(at["dtype"])
        return [(at["start"] + at["step"] * np.arange(at["length"])).astype(kind)]

    def axes(self, op: Op, eq: Equations) -> None:
        eq.of(op.output)

    def transfer(self, op: Op, flow: Flow) -> None:
        blocks = flow.grid(op.output)[0]
        atoms = [d.atom for b in blocks for d in b.digits if d.fresh]
        tail = flow.growth.appends(flow.eq.of(op.output)[0])
        if atoms and not (tail and "end" in op.slots):
            flow.fail("counts along an axis that grows in its middle", atoms)
        up = TRUE if op.attrs["start"] >= 0 and op.attrs["step"] > 0 else FALSE
        above = TRUE if op.attrs["start"] > 0 and op.attrs["step"] > 0 else FALSE
        flow.set(
            op.output,
            flow.build(
                op.output,
                lambda _, new: Cell(FALSE, (FALSE,) * len(new), None if new else NONE, up, above),
            ),
        )

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        term = sizes.terms(op.output)[0]
        if not sizes.touches(term):
            return []
        start, step = op.attrs["start"], op.attrs["step"]
        return sizes.number(op, "end", start + step * term.size, start + step * sizes.size(term))


register("full", Full())
register("range", Range())
