"""Reductions and other operators that look along an axis: sum, mean, softmax, sort, cumulative sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.blocks import combinations
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, all_of, any_of
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.scale import NONE, Linear
from meristem.rewrite.semantics import chosen

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import SizeEdit, Sizes


@dataclass(frozen=True)
class Sum(Base):
    """Sum or mean (``mean`` attribute) over ``axes``; ``keep`` leaves axes of one.

    ``why``, where given, says why the number of coordinates has to stay.
    """

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [reduced(inputs[0].shape, attrs["axes"], attrs["keep"])]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        f = np.mean if op.attrs["mean"] else np.sum
        return [np.asarray(f(arrays[0], axis=tuple(op.attrs["axes"]), keepdims=op.attrs["keep"]))]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        if "why" in op.attrs:
            for a in op.attrs["axes"]:
                eq.pin(x[a], op.attrs["why"])
        eq.set(op.output, kept(x, op.attrs["axes"], op.attrs["keep"]))

    def transfer(self, op: Op, flow: Flow) -> None:
        x = op.inputs[0]
        grid, cells, over = flow.grid(x), flow.of(x), tuple(op.attrs["axes"])
        terms = flow.eq.of(x)
        ratio = sum(log(flow.growth.size(terms[a]) / terms[a].size) for a in over)
        stay = [a for a in range(len(grid)) if a not in over]
        combos = list(combinations([len(grid[a]) for a in over]))

        def make(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            at = [0] * len(grid)
            outer = [i for a, i in enumerate(index) if a not in over] if op.attrs["keep"] else index
            for a, i in zip(stay, outer, strict=True):
                at[a] = i
            scales: list[Linear | None] = []
            row: list[Cell] = []
            for combo in combos:
                for a, i in zip(over, combo, strict=True):
                    at[a] = i
                cell: Cell = cells[tuple(at)]
                row.append(cell)
                new = [d.atom for a in over for d in grid[a][at[a]].digits if d.fresh]
                if fresh:
                    continue
                if not new:
                    times = Linear(
                        _log_copies(flow, [d for a in over for d in grid[a][at[a]].digits])
                    )
                    scales.append(None if cell.scale is None else cell.scale + times)
                elif all(flow.growth.copies(atom) for atom in new):
                    flow.oblige(all_of(cell.twins), "sums over copies, which must be equal", new)
                    if not all(flow.growth.even(atom) for atom in new):
                        flow.fail("sums over copies that are not equally many", new)
                else:
                    flow.oblige(cell.zero, "sums over new coordinates, which must be zero", new)
            nonneg = all_of(c.nonneg for c in row)
            pos = all_of([nonneg, any_of(c.pos for c in row)])
            if fresh:
                twins = _outer_twins(row, grid, at, over, fresh)
                zero, stuck = all_of(c.zero for c in row), all_of(c.stuck for c in row)
                return Cell(zero, twins, None, nonneg, pos, stuck=stuck)
            gain = -ratio if op.attrs["mean"] else 0.0
            scale = flow.equal_scales(scales, "sums blocks")
            if scale is None:
                return Cell(all_of(c.zero for c in row), (), None, nonneg, pos)
            return Cell(FALSE, (), scale + Linear(gain), nonneg, pos)

        flow.set(op.output, flow.build(op.output, make))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


def _log_copies(flow: Flow, digits: Sequence[Any]) -> float:
    """Logarithm of how often a sum counts an old coordinate after growth."""
    copied = (d.atom for d in digits if d.grown and flow.growth.copies(d.atom))
    return sum(log(flow.growth.ratio(a)) for a in copied)


def _outer_twins(
    row: Sequence[Cell], grid: Any, at: Sequence[int], over: tuple[int, ...], fresh: Sequence[Any]
) -> tuple[Any, ...]:
    """Twins along kept axes: all summed blocks must be twins there (blocks that are all old along the
    summed axes carry exactly the kept digits)."""
    old = [c for c in row if len(c.twins) == len(fresh)]
    if len(old) != len(row):
        return (FALSE,) * len(fresh)
    return tuple(all_of(c.twins[k] for c in old) for k in range(len(fresh)))


def reduced(shape: Shape, axes: Sequence[int], keep: bool) -> Shape:
    return tuple(1 if a in axes else n for a, n in enumerate(shape) if keep or a not in axes)


def kept(terms: Sequence[Term], axes: Sequence[int], keep: bool) -> list[Term]:
    return [Term(1) if a in axes else t for a, t in enumerate(terms) if keep or a not in axes]


_REDUCERS = {
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "any": np.any,
    "all": np.all,
    "argmax": None,
    "argmin": None,
}


@dataclass(frozen=True)
class Extremum(Base):
    """Reductions that a new coordinate would change: the reduced axes cannot grow."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [reduced(inputs[0].shape, attrs["axes"], attrs["keep"])]

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        how = attrs["how"]
        return {"any": "bool", "all": "bool", "argmax": "int64", "argmin": "int64"}.get(
            how, inputs[0].dtype
        )

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        how, axes, keep = op.attrs["how"], tuple(op.attrs["axes"]), op.attrs["keep"]
        if how in ("argmax", "argmin"):
            f = np.argmax if how == "argmax" else np.argmin
            return [np.asarray(f(arrays[0], axis=axes[0], keepdims=keep))]
        return [np.asarray(_REDUCERS[how](arrays[0], axis=axes, keepdims=keep))]  # type: ignore[misc]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        for a in op.attrs["axes"]:
            eq.pin(x[a], f"takes the {op.attrs['how']} over it")
        eq.set(op.output, kept(x, op.attrs["axes"], op.attrs["keep"]))

    def transfer(self, op: Op, flow: Flow) -> None:
        along(op, flow, nonneg=op.attrs["how"].startswith(("arg", "a")))


@dataclass(frozen=True)
class Softmax(Base):
    """exp(x) / sum(exp(x)) over ``axis``; ``log`` for its logarithm."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [inputs[0].shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, axis = arrays[0], op.attrs["axis"]
        with np.errstate(all="ignore"):
            x = x - np.max(x, axis=axis, keepdims=True)
            e = np.exp(x)
            total = e.sum(axis=axis, keepdims=True)
            return [x - np.log(total) if op.attrs.get("log") else e / total]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        why = "normalises over it, and a new entry would take weight"
        if op.attrs.get("log") or not eq.grids:
            eq.pin(x[op.attrs["axis"]], why, choice=not op.attrs.get("log"))
        eq.set(op.output, x)

    def transfer(self, op: Op, flow: Flow) -> None:
        if chosen.fresh_along(flow, op.inputs[0], op.attrs["axis"] % len(op.output.shape)):
            chosen.softmax(op, flow)
            return
        along(op, flow, nonneg=not op.attrs.get("log"))


@dataclass(frozen=True)
class Scan(Base):
    """Operators along ``axis`` that keep every coordinate: cumulative sum, difference, sort,
    top-k, triangles."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        shape = list(inputs[0].shape)
        if attrs["how"] in ("topk", "topk_index"):
            shape[attrs["axis"]] = attrs["k"]
        if attrs["how"] == "diff":
            shape[attrs["axis"]] -= 1
        return [tuple(shape)]

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        if attrs["how"] in ("topk_index", "argsort"):
            return "int64"
        return super().dtype(inputs, attrs)

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, how, axis = arrays[0], op.attrs["how"], op.attrs.get("axis", -1)
        if how == "cumsum":
            return [np.cumsum(x, axis=axis)]
        if how == "diff":
            return [np.diff(x, axis=axis)]
        if how in ("tril", "triu"):
            return [(np.tril if how == "tril" else np.triu)(x, op.attrs["k"])]
        sign = -1 if op.attrs.get("descending", True) else 1
        order = np.argsort(sign * x, axis=axis, kind="stable")
        if how.startswith("topk"):
            order = np.take(order, range(op.attrs["k"]), axis=axis)
        return [order if how in ("argsort", "topk_index") else np.take_along_axis(x, order, axis)]

    def axes(self, op: Op, eq: Equations) -> None:
        x, how = list(eq.of(op.inputs[0])), op.attrs["how"]
        along_axes = [-2, -1] if how in ("tril", "triu") else [op.attrs["axis"]]
        why, choice = f"depends on the order along it ({how})", how in chosen.HOW
        taken = chosen.taken_with(op, eq) if choice else None
        for a in along_axes:
            eq.pin(x[a], why, choice=choice)
            x[a] = Term(op.output.shape[a]) if taken is None else taken
            eq.pin(x[a], why, choice=choice)
        eq.set(op.output, x)

    def transfer(self, op: Op, flow: Flow) -> None:
        how, axis = op.attrs["how"], op.attrs.get("axis", -1)
        grown = how in chosen.HOW and any(
            chosen.fresh_along(flow, v, axis) for v in (op.inputs[0], op.output)
        )
        if grown:
            chosen.choice(op, flow)
            return
        along(op, flow, nonneg=how in ("topk_index", "argsort"), keeps_sign=how != "diff")

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        if op.attrs["how"] not in chosen.HOW:
            return []
        return sizes.scalar(op, "k", sizes.terms(op.output)[op.attrs["axis"]])


def along(op: Op, flow: Flow, *, nonneg: bool = False, keeps_sign: bool = False) -> None:
    """Operators whose own axis is pinned and whose rows are independent.

    Every old block must be unscaled; a fresh row is a finite function of a fresh row. A copy of an old
    row gives a copy of the old result, but which cells of the operand belong to it is lost where the
    axis changes, so twins are dropped.
    """
    for v in op.inputs:
        for cell in flow.of(v).flat:
            flow.require_unscaled(cell.scale, "is not homogeneous")
    sign = TRUE if nonneg else FALSE
    if keeps_sign and not nonneg:  # sums, sorted entries and zeros of what is not negative
        sign = all_of(c.nonneg for c in flow.of(op.inputs[0]).flat)
    flow.fill(op.output, Cell(scale=NONE, nonneg=sign))
    _copy_rows(op, flow)


def _copy_rows(op: Op, flow: Flow) -> None:
    """A row is a copy of another where all of its pieces are; those along pinned axes are all old."""
    x, y = flow.of(op.inputs[0]), flow.of(op.output)
    if x.shape != y.shape:
        return
    over = [a % x.ndim for a in op.attrs.get("axes", [op.attrs.get("axis", -1)])]
    for index in np.ndindex(y.shape):
        if x[index].twins:
            row = x[tuple(slice(None) if a in over else i for a, i in enumerate(index))].ravel()
            atoms = [a for _, a in flow.fresh_digits(flow.grid(op.output), index)]
            twins = tuple(
                all_of(c.twins[k] for c in row) if flow.growth.equal(a) else FALSE
                for k, a in enumerate(atoms)
            )
            y[index] = Cell(FALSE, twins, None, y[index].nonneg, FALSE)


register("sum", Sum())
register("extremum", Extremum())
register("softmax", Softmax())
register("scan", Scan())
