"""The barrier: an operator without semantics pins what it touches, with its name as the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meristem.rewrite.cell import OLD
from meristem.rewrite.errors import UnsupportedOperator
from meristem.rewrite.flow import Flow
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, register

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations


@dataclass(frozen=True)
class Opaque(Base):
    """Anything: results as the carrier recorded them (``shapes``, ``dtypes`` attributes)."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [tuple(s) for s in attrs["shapes"]]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        raise UnsupportedOperator(
            f"{op.where} has no semantics, so it cannot be evaluated in float64; "
            "add a block in rewrite/semantics/ (docs/add-an-operator.md)",
            op=op.origin,
            place=op.place,
        )

    def axes(self, op: Op, eq: Equations) -> None:
        for v in (*op.inputs, *op.outputs):
            for t in eq.of(v):
                eq.pin(t, "has no semantics", opaque=True)

    def transfer(self, op: Op, flow: Flow) -> None:
        for v in op.inputs:
            for cell in flow.of(v).flat:
                flow.require_unscaled(cell.scale, "has no semantics")
        for v in op.outputs:
            flow.fill(v, OLD)

    def poles(self, op: Op) -> tuple[int, ...]:
        return tuple(range(len(op.inputs)))


register("opaque", Opaque())
