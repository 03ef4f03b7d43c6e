"""Padding with a constant: new coordinates before and after an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term, cat
from meristem.rewrite.cell import Cell
from meristem.rewrite.edits import SizeEdit
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.scale import NONE
from meristem.rewrite.semantics.layout import block_at

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import Sizes


@dataclass(frozen=True)
class Pad(Base):
    """``pads`` = (before, after) for every axis, filled with the constant ``value``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [
            tuple(n + lo + hi for n, (lo, hi) in zip(inputs[0].shape, attrs["pads"], strict=True))
        ]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [np.pad(arrays[0], op.attrs["pads"], constant_values=op.attrs["value"])]

    def axes(self, op: Op, eq: Equations) -> None:
        out = []
        for t, (lo, hi) in zip(eq.of(op.inputs[0]), op.attrs["pads"], strict=True):
            ends = [Term(lo), Term(hi)]
            for e in ends:
                if op.attrs["value"] != 0 or "pads" not in op.slots:
                    eq.pin(e, "pads by a fixed number of coordinates")
            out.append(cat([ends[0], t, ends[1]]) if lo or hi else t)
        eq.set(op.output, out)

    def transfer(self, op: Op, flow: Flow) -> None:
        x = flow.of(op.inputs[0])
        value = float(op.attrs["value"])
        filler = Cell(
            zero=TRUE if value == 0 else FALSE,
            scale=None if value == 0 or np.isinf(value) else NONE,
            nonneg=TRUE if value >= 0 else FALSE,
        )
        grid = flow.grid(op.output)
        first = [block_at(g, lo) for g, (lo, _) in zip(grid, op.attrs["pads"], strict=True)]

        def make(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            inner = tuple(i - f for i, f in zip(index, first, strict=True))
            if all(0 <= i < n for i, n in zip(inner, x.shape, strict=True)):
                cell: Cell = x[inner]
                return cell
            if not fresh:
                return filler
            return Cell(filler.zero, (TRUE,) * len(fresh), None, filler.nonneg)

        flow.set(op.output, flow.build(op.output, make))

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        """``places`` says which entry of the carrier's list holds (axis, side)."""
        out: list[SizeEdit] = []
        for axis, (lo, hi) in enumerate(op.attrs["pads"]):
            whole = sizes.terms(op.output)[axis]
            if not (lo or hi) or not sizes.touches(whole):
                continue
            inside = sizes.size(sizes.terms(op.inputs[0])[axis])
            before = sizes.offset(whole, lo)
            after = sizes.size(whole) - before - inside
            for side, (old, new) in enumerate(((lo, before), (hi, after))):
                entry = op.attrs.get("places", {}).get((axis, side))
                if old != new and entry is not None and "pads" in op.slots:
                    out.append(SizeEdit(op.slots["pads"], entry, old, new))
        return out

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,)) if float(op.attrs["value"]) == 0 else Vanishing()


register("pad", Pad())
