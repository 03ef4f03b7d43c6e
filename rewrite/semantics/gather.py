"""Reading by index: embedding tables, index tensors, gather along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term, find
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, all_of
from meristem.rewrite.graph import Array, Literal, Op, Shape, Value
from meristem.rewrite.places import counted
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.semantics import chosen

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations


@dataclass(frozen=True)
class Take(Base):
    """y = x with ``axis`` replaced by the axes of an integer tensor (embedding, index_select).

    The indexed axis may only grow at its end, and only under indices that are not negative: a negative
    one would count from the new end. ``unsigned`` says that the native operator rejects those itself.
    """

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        axis = attrs["axis"]
        x, i = inputs[0].shape, inputs[1].shape
        return [(*x[:axis], *i, *x[axis + 1 :])]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [np.take(arrays[0], np.asarray(arrays[1], np.int64), axis=op.attrs["axis"])]

    def axes(self, op: Op, eq: Equations) -> None:
        axis = op.attrs["axis"]
        x, i = eq.of(op.inputs[0]), eq.of(op.inputs[1])
        chosen.tie(eq, x[axis], op.inputs[1])
        row = counted(op) if eq.grids else None
        if row is not None:
            eq.equal(x[axis], i[row])
        eq.set(op.output, [*x[:axis], *i, *x[axis + 1 :]])

    def transfer(self, op: Op, flow: Flow) -> None:
        axis = op.attrs["axis"]
        table, index_value = op.inputs
        cells, grid = flow.of(table), flow.grid(table)
        inner = len(index_value.shape)
        old = [i for i, b in enumerate(grid[axis]) if not b.fresh]
        self._check_growth(op, flow, grid[axis])
        check_range(op, flow, index_value)
        if chosen.points_at(flow, index_value, flow.eq.of(table)[axis]):
            chosen.require_copies(flow, table, axis, "reads what was chosen from new entries")
        places = flow.of(index_value)

        def make(at: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            row = [cells[(*at[:axis], i, *at[axis + inner :])] for i in old]
            from_index = [k for k, (a, _) in enumerate(fresh) if axis <= a < axis + inner]
            if not fresh:
                scale = flow.equal_scales([c.scale for c in row], "reads rows of blocks")
                signs = all_of(c.nonneg for c in row), all_of(c.pos for c in row)
                return Cell(
                    all_of(c.zero for c in row) if scale is None else FALSE, (), scale, *signs
                )
            kept = [k for k in range(len(fresh)) if k not in from_index]
            twins, opposites = [FALSE] * len(fresh), [FALSE] * len(fresh)
            for n, k in enumerate(from_index):  # equal places read equal rows
                if flow.growth.equal(fresh[k][1]):
                    twins[k] = places[at[axis : axis + inner]].twins[n]
            for n, k in enumerate(kept):
                twins[k] = all_of(c.twins[n] for c in row)
                opposites[k] = all_of(c.opposite(n) for c in row)
            zero = all_of(c.zero for c in row) if kept else FALSE
            return Cell(zero, tuple(twins), None, opposites=tuple(opposites))

        flow.set(op.output, flow.build(op.output, make))

    @staticmethod
    def _check_growth(op: Op, flow: Flow, blocks: Sequence[Any]) -> None:
        new = [d.atom for b in blocks for d in b.digits if d.fresh]
        if not new:
            return
        tail = flow.growth.appends(flow.eq.of(op.inputs[0])[op.attrs["axis"]])
        index = op.inputs[1]
        if isinstance(index, Literal) and index.slot is not None:
            if not tail or float(index.data.min(initial=0)) < 0:
                if not _reads_one_axis(index, flow):
                    flow.fail("reads by a constant index that also serves another axis", new)
                flow.remapped.append((index, flow.eq.of(op.inputs[0])[op.attrs["axis"]]))
            return
        if not tail:
            flow.fail("reads by index an axis that grows in its middle", new)
        if op.attrs.get("unsigned"):
            return
        flow.oblige(
            all_of(c.nonneg for c in flow.of(index).flat),
            "reads by an index that may be negative, which would count from the new end",
            new,
        )

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


def _reads_one_axis(index: Literal, flow: Flow) -> bool:
    """Is a constant index used on one axis alone, so that it can be rewritten?"""
    axes = set()
    for op, position in index.uses:
        if op.kind != "take" or position != 1:
            return False
        axes.add(find(flow.eq.of(op.inputs[0])[op.attrs["axis"]]))
    return len(axes) == 1


# What hands indices on, and what makes valid ones from any row.
_MOVES = ("identity", "cast", "reshape", "permute", "expand", "slice", "concat")
_VALID = ("argmax", "argmin", "argsort", "topk_index")


def check_range(op: Op, flow: Flow, index: Value) -> None:
    """A fresh index must lie inside the axis it reads: only ranges and arithmetic can leave it.

    Where it is constant along the new coordinates it is an old one.
    """
    new = [d.atom for g in flow.grid(index) for b in g for d in b.digits if d.fresh]
    varies = any(t is not TRUE for c in flow.of(index).flat for t in c.twins)
    if new and varies and not _in_range(index):
        flow.fail("reads by computed indices, which new coordinates may carry beyond the axis", new)


def _in_range(v: Value) -> bool:
    made = v.producer
    if made is None or made.attrs.get("how") in _VALID:
        return True
    return made.kind in _MOVES and all(_in_range(x) for x in made.inputs)


@dataclass(frozen=True)
class TakeMany(Base):
    """numpy's advanced indexing with integer tensors on ``axes``; these cannot grow, others pass."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        probe = np.empty(inputs[0].shape, np.bool_)
        index: list[Any] = [slice(None)] * probe.ndim
        for a, v in zip(attrs["axes"], inputs[1:], strict=True):
            index[a] = np.zeros(v.shape, np.int64)
        return [probe[tuple(index)].shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        index: list[Any] = [slice(None)] * arrays[0].ndim
        for a, i in zip(op.attrs["axes"], arrays[1:], strict=True):
            index[a] = np.asarray(i, np.int64)
        return [arrays[0][tuple(index)]]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        axes = list(op.attrs["axes"])
        for a in axes:
            eq.pin(x[a], "reads it by several index tensors together")
        joint = np.broadcast_shapes(*(v.shape for v in op.inputs[1:]))
        terms = [Term(n) for n in joint]
        for v in op.inputs[1:]:
            skip = len(joint) - len(v.shape)
            for i, t in enumerate(eq.of(v)):
                if t.size != 1 or joint[skip + i] == 1:
                    eq.equal(terms[skip + i], t)
        rest = [t for a, t in enumerate(x) if a not in axes]
        adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
        first = axes[0] if adjacent else 0
        eq.set(op.output, [*rest[:first], *terms, *rest[first:]])

    def transfer(self, op: Op, flow: Flow) -> None:
        x, axes = op.inputs[0], list(op.attrs["axes"])
        cells = flow.of(x)
        rank = len(np.broadcast_shapes(*(v.shape for v in op.inputs[1:])))
        adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
        first = axes[0] if adjacent else 0
        for v in op.inputs[1:]:
            check_range(op, flow, v)

        def make(at: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            rest = iter((*at[:first], *at[first + rank :]))
            index = tuple(slice(None) if a in axes else next(rest) for a in range(cells.ndim))
            row = list(np.ravel(cells[index]))
            if not fresh:
                return Cell(scale=flow.equal_scales([c.scale for c in row], "reads rows of blocks"))
            if any(first <= a < first + rank for a, _ in fresh):
                return flow.unknown(fresh)
            twins = tuple(all_of(c.twins[k] for c in row) for k in range(len(fresh)))
            return Cell(all_of(c.zero for c in row), twins, None)

        flow.set(op.output, flow.build(op.output, make))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


@dataclass(frozen=True)
class TakeAlong(Base):
    """y[..., i, ...] = x[..., index[..., i, ...], ...] along ``axis``: it cannot grow, others tie."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [inputs[1].shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, index = arrays
        axis = op.attrs["axis"]
        shape = list(index.shape)
        shape[axis] = x.shape[axis]
        window = tuple(slice(n) for n in shape)
        return [np.take_along_axis(x[window], np.asarray(index, np.int64), axis)]

    def axes(self, op: Op, eq: Equations) -> None:
        x, i = eq.of(op.inputs[0]), eq.of(op.inputs[1])
        for a, (t, u) in enumerate(zip(x, i, strict=True)):
            if a == op.attrs["axis"]:
                tied = chosen.tie(eq, t, op.inputs[1])
                eq.pin(t, "reads it by an index tensor", choice=tied)
            elif t.size == u.size:
                eq.equal(t, u)
            else:
                eq.pin(t, "reads a part of it")
        eq.set(op.output, i)

    def transfer(self, op: Op, flow: Flow) -> None:
        check_range(op, flow, op.inputs[1])
        scales = [c.scale for c in flow.of(op.inputs[0]).flat]
        scale = flow.equal_scales(scales, "reads blocks by an index tensor")
        axis, why = op.attrs["axis"], "reads what was chosen from new entries"
        flow.fill(op.output, Cell(scale=scale))
        if chosen.fresh_along(flow, op.inputs[0], axis) and chosen.require_copies(
            flow, op.inputs[0], axis, why
        ):
            flow.set(op.output, chosen.repeated(op.output, flow, axis, Cell(scale=scale)))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


register("take", Take())
register("take_many", TakeMany())
register("take_along", TakeAlong())
