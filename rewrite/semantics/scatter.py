"""Writing by index: entries of one axis replaced by, or increased by, those of another tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.semantics import chosen
from meristem.rewrite.semantics.gather import check_range

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations


@dataclass(frozen=True)
class Scatter(Base):
    """y = x, then y[..., i[..., k, ...], ...] = z[..., k, ...] along ``axis`` (``add``: += instead).

    Operands x, i, z of one rank; i may have axes of one where z has more, and is then constant along
    them. The written axis cannot grow; on all others coordinates do not meet, so those may.
    """

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        x, i, z = (v.shape for v in inputs)
        if not len(x) == len(i) == len(z) or np.broadcast_shapes(i, z) != z:
            raise ValueError(f"scatter: {i} and {z} into {x}")
        if any(n > m for a, (n, m) in enumerate(zip(z, x, strict=True)) if a != attrs["axis"]):
            raise ValueError(f"scatter: {z} is larger than {x}")
        return [x]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, i, z = arrays
        places = list(np.indices(z.shape))
        axis = op.attrs["axis"]
        places[axis] = np.broadcast_to(np.asarray(i, np.int64), z.shape)
        y = np.array(x, np.result_type(x, z))
        if op.attrs["add"]:
            np.add.at(y, tuple(places), z)
        else:
            y[tuple(places)] = z
        return [y]

    def axes(self, op: Op, eq: Equations) -> None:
        axis = op.attrs["axis"]
        x, i, z = (eq.of(v) for v in op.inputs)
        for a, (whole, index, part) in enumerate(zip(x, i, z, strict=True)):
            if index.size == part.size:
                eq.equal(index, part)
            if a == axis:
                tied = chosen.tie(eq, whole, op.inputs[1])
                for t in (whole, part):
                    eq.pin(t, "writes into it by an index tensor", choice=tied)
            elif whole.size == part.size:
                eq.equal(whole, part)
            else:
                for t in (whole, part):
                    eq.pin(t, "writes into a part of it")
        eq.set(op.output, x)

    def transfer(self, op: Op, flow: Flow) -> None:
        check_range(op, flow, op.inputs[1])
        if chosen.fresh_along(flow, op.output, op.attrs["axis"]):
            chosen.written(op, flow)
            return
        x, index, z = (_rows(op, flow, v, whole=n == 0) for n, v in enumerate(op.inputs))

        def make(at: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            row = [*x(at, fresh), *z(at, fresh)]
            zero, nonneg = all_of(c.zero for c in row), all_of(c.nonneg for c in row)
            if not fresh:
                scale = flow.equal_scales([c.scale for c in row], "writes blocks")
                return Cell(zero if scale is None else FALSE, (), scale, nonneg)
            places = index(at, fresh)
            twins = []
            for k, (_, atom) in enumerate(fresh):
                same = (_same_place(c.twins[k], flow.growth.equal(atom)) for c in places)
                twins.append(all_of([*(c.twins[k] for c in row), *same]))
            return Cell(zero, tuple(twins), None, nonneg)

        flow.set(op.output, flow.build(op.output, make))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0, 2))


def _same_place(twin: Formula, equal: bool) -> Formula:
    """Does a new coordinate write where its twin does? A mean of places is no place."""
    return twin if equal or twin is TRUE else FALSE


def _rows(
    op: Op, flow: Flow, v: Value, *, whole: bool
) -> Callable[[tuple[int, ...], Sequence[tuple[int, int]]], list[Cell]]:
    """The cells of an operand that reach a block of the result, twins completed for absent axes.

    ``whole`` says that the operand is the one written into, which is met block by block along the axis.
    """
    cells, shape = flow.of(v), op.output.shape
    here = [n == m for n, m in zip(v.shape, shape, strict=True)]
    if not whole:
        here[op.attrs["axis"]] = False
    for a, (own, wanted) in enumerate(zip(flow.grid(v), flow.grid(op.output), strict=True)):
        if here[a]:
            cells = flow.meet(cells, a, own, wanted)

    def rows(at: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> list[Cell]:
        window = tuple(i if here[a] else slice(None) for a, i in enumerate(at))
        out = []
        for cell in np.ravel(cells[window]):
            own = iter(cell.twins)
            twins = tuple(next(own) if here[a] else TRUE for a, _ in fresh)
            out.append(replace(cell, twins=twins))
        return out

    return rows


register("scatter", Scatter())
