"""Moving coordinates without mixing them: reshape, permute, expand, slice, concat, pad.

Blocks keep their lexicographic order under row-major regrouping, so every transfer here is the same
numpy operation on the array of cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term, cat, cut, prod
from meristem.rewrite.blocks import Block, Digit
from meristem.rewrite.cell import OLD, Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import all_of
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.semantics.elementwise import operand_views

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import SizeEdit, Sizes


@dataclass(frozen=True)
class Reshape(Base):
    """Row-major regrouping to ``shape``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        shape = tuple(attrs["shape"])
        if int(np.prod(shape)) != int(np.prod(inputs[0].shape)):
            raise ValueError(f"reshape: {inputs[0].shape} to {shape}")
        return [shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [arrays[0].reshape(op.output.shape)]

    def axes(self, op: Op, eq: Equations) -> None:
        before = eq.of(op.inputs[0])
        after = [Term(n) for n in op.output.shape]
        eq.set(op.output, _keep(before, op.output.shape) or after)
        if eq.of(op.output)[: len(after)] == tuple(after):
            eq.regroup(before, after)

    def transfer(self, op: Op, flow: Flow) -> None:
        cells = flow.of(op.inputs[0])
        shape = tuple(len(g) for g in flow.grid(op.output))
        if _digits(flow.grid(op.inputs[0])) == _digits(flow.grid(op.output)):
            flow.set(op.output, cells.reshape(shape))
            return
        # The factors did not align, so these axes are pinned: only old blocks, merged into one.
        scale = flow.equal_scales([c.scale for c in cells.flat], "regroups axes that do not align")
        flow.fill(op.output, Cell(scale=scale))

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        terms = sizes.terms(op.output)
        if "pieces" in op.slots:  # the carrier states only the sizes that one axis is split into
            first, count = op.attrs["first"], op.attrs["count"]
            return sizes.vector(op, "pieces", terms[first : first + count])
        return sizes.vector(op, "shape", terms)

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


def _digits(grid: Sequence[Sequence[Block]]) -> list[tuple[Digit, ...]]:
    """Digits of every block in lexicographic order, sizes of one left out."""
    return [
        tuple(d for b in blocks for d in b.digits if d.size > 1 or d.grown)
        for blocks in itertools.product(*grid)
    ]


def _keep(before: Sequence[Term], shape: Shape) -> list[Term] | None:
    """Only axes of one come or go: hand the terms through."""
    old = [t for t in before if t.size != 1]
    if [t.size for t in old] != [n for n in shape if n != 1]:
        return None
    rest = iter(old)
    return [next(rest) if n != 1 else Term(1) for n in shape]


@dataclass(frozen=True)
class Permute(Base):
    """y axes are x axes in the order ``perm``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [tuple(inputs[0].shape[i] for i in attrs["perm"])]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [np.transpose(arrays[0], op.attrs["perm"])]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        eq.set(op.output, [x[i] for i in op.attrs["perm"]])

    def transfer(self, op: Op, flow: Flow) -> None:
        perm = tuple(op.attrs["perm"])
        x = flow.of(op.inputs[0])
        grid = flow.grid(op.inputs[0])
        out: Any = np.transpose(x, perm).copy()
        for index in np.ndindex(out.shape):
            cell: Cell = out[index]
            if len(cell.twins) > 1:
                source = [0] * len(perm)
                for i, axis in enumerate(perm):
                    source[axis] = index[i]
                axes = [a for a, _ in flow.fresh_digits(grid, source)]
                order = sorted(range(len(axes)), key=lambda k: (perm.index(axes[k]), k))
                twins = tuple(cell.twins[k] for k in order)
                opposites = tuple(cell.opposite(k) for k in order)
                out[index] = replace(cell, twins=twins, opposites=opposites)
        flow.set(op.output, out)

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


@dataclass(frozen=True)
class Expand(Base):
    """Broadcast to ``shape``: axes of one become fresh axes along which the value is constant."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [tuple(np.broadcast_shapes(inputs[0].shape, tuple(attrs["shape"])))]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [np.broadcast_to(arrays[0], op.output.shape)]

    def axes(self, op: Op, eq: Equations) -> None:
        x = eq.of(op.inputs[0])
        skip = len(op.output.shape) - len(x)
        terms = [Term(n) for n in op.output.shape]
        for i, t in enumerate(x):
            if t.size == terms[skip + i].size:
                terms[skip + i] = t
        eq.set(op.output, terms)

    def transfer(self, op: Op, flow: Flow) -> None:
        view = operand_views(op, flow)[0]

        def make(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            cell = view(index, fresh)
            return cell if not fresh else replace(cell, scale=None)

        flow.set(op.output, flow.build(op.output, make))

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        terms = sizes.terms(op.output)
        if "entries" in op.attrs:  # repeats: the carrier states counts of these axes only
            terms = tuple(terms[a] for a in op.attrs["entries"])
        if "times" in op.slots:
            return sizes.scalar(op, "times", terms[0])
        return sizes.vector(op, "shape", terms)

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


@dataclass(frozen=True)
class Slice(Base):
    """Coordinates ``start <= i < end`` of ``axis`` in steps of ``step``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        shape = list(inputs[0].shape)
        shape[attrs["axis"]] = len(range(attrs["start"], attrs["end"], attrs.get("step", 1)))
        return [tuple(shape)]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        at = op.attrs
        index = [slice(None)] * arrays[0].ndim
        index[at["axis"]] = slice(at["start"], at["end"], at.get("step", 1))
        return [arrays[0][tuple(index)]]

    def axes(self, op: Op, eq: Equations) -> None:
        at = op.attrs
        x = list(eq.of(op.inputs[0]))
        axis, step = at["axis"], at.get("step", 1)
        n, start, end = x[axis].size, at["start"], at["end"]
        length = op.output.shape[axis]
        if at.get("dynamic"):
            x[axis] = self._part(eq, x[axis], start, step, length)
        elif step != 1:
            x[axis] = self._strided(eq, x[axis], start, step, length)
        elif length == 0:
            x[axis] = Term(0)
        elif length != n:
            piece = x[axis]
            if end < n:
                piece, _ = cut(piece, end)
            if start > 0:
                _, piece = cut(piece, start)
            x[axis] = piece
        eq.set(op.output, x)

    @staticmethod
    def _part(eq: Equations, whole: Term, start: int, step: int, length: int) -> Term:
        """An end that is only known at run time: any coordinate may be read, from the first on."""
        part = Term(length)
        eq.pin(part, "takes a part whose length is only known at run time")
        if start != 0 or step != 1:
            eq.pin(whole, "takes a part whose place is only known at run time")
        return part

    @staticmethod
    def _strided(eq: Equations, t: Term, start: int, step: int, length: int) -> Term:
        if t.size % step or length * step != t.size:
            out = Term(length)
            for x in (t, out):
                eq.pin(x, f"takes every {step}th coordinate, which does not divide its size")
            return out
        outer, inner = Term(length), Term(step)
        eq.equal(t, prod([outer, inner]))
        eq.note(inner)
        eq.pin(inner, f"takes coordinate {start} of every {step}")
        return outer

    def transfer(self, op: Op, flow: Flow) -> None:
        at = op.attrs
        axis, step = at["axis"], at.get("step", 1)
        x, wanted = flow.of(op.inputs[0]), len(flow.grid(op.output)[axis])
        if at.get("dynamic"):
            blocks = flow.grid(op.inputs[0])[axis]
            flow.set(op.output, _join(flow, x, axis, blocks, "takes a part of unknown length"))
            return
        if op.output.shape[axis] == 0:
            flow.fill(op.output, OLD)
            return
        if wanted == x.shape[axis]:
            flow.set(op.output, x)
            return
        if step != 1:
            flow.set(op.output, self._every(op, flow, x))
            return
        blocks = flow.grid(op.inputs[0])[axis]
        first = block_at(blocks, at["start"])
        index = [slice(None)] * x.ndim
        index[axis] = slice(first, first + wanted)
        flow.set(op.output, x[tuple(index)])

    def _every(self, op: Op, flow: Flow, x: Any) -> Any:
        """The piece of the inner factor in which the start lies, of every outer block."""
        axis = op.attrs["axis"]
        inner = flow.eq.noted(op)
        if inner is None:
            return _join(flow, x, axis, flow.grid(op.inputs[0])[axis], "slices in steps")
        pieces = flow.growth.blocks(inner)
        number = _block_with(pieces, op.attrs["start"])
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(number, None, len(pieces))
        return x[tuple(index)]

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        axis = op.attrs["axis"]
        whole = sizes.terms(op.inputs[0])[axis]
        if op.attrs.get("dynamic") or not sizes.touches(whole):
            return []
        start = sizes.offset(whole, op.attrs["start"])
        length = sizes.size(sizes.terms(op.output)[axis])
        step = op.attrs.get("step", 1)
        old_start, old_end = op.attrs["start"], op.attrs["end"]
        if step != 1:
            return [*sizes.number(op, "end", old_end, old_start + length * step)]
        return [
            *sizes.number(op, "start", old_start, start),
            *sizes.number(op, "end", old_end, start + length),
            *sizes.number(op, "length", old_end - old_start, length),
        ]

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


def block_at(blocks: Sequence[Any], offset: int) -> int:
    """Number of the first block at an old offset: old coordinates before it, then fresh ones."""
    seen = 0
    for i, b in enumerate(blocks):
        if seen == offset and not b.fresh:
            return i
        if not b.fresh:
            seen += b.size
    return len(blocks)


def _block_with(blocks: Sequence[Any], offset: int) -> int:
    """Number of the block that holds an offset (no block is fresh)."""
    for i, b in enumerate(blocks):
        if offset < b.size:
            return i
        offset -= b.size
    raise AssertionError("the offset lies outside the axis")


def _join(flow: Flow, x: Any, axis: int, blocks: Sequence[Any], why: str) -> Any:
    """What holds of every old block along an axis, as one block."""
    old = [i for i, b in enumerate(blocks) if not b.fresh]
    moved = np.moveaxis(x, axis, -1)
    out = np.empty((*moved.shape[:-1], 1), object)
    for index in np.ndindex(moved.shape[:-1]):
        row: list[Cell] = [moved[(*index, i)] for i in old]
        fresh = bool(row[0].twins)
        scale = flow.equal_scales([c.scale for c in row], why)
        out[(*index, 0)] = Cell(
            all_of(c.zero for c in row),
            tuple(all_of(c.twins[k] for c in row) for k in range(len(row[0].twins))),
            None if fresh else scale,
            all_of(c.nonneg for c in row),
            all_of(c.pos for c in row),
        )
    return np.moveaxis(out, -1, axis)


@dataclass(frozen=True)
class Concat(Base):
    """Operands side by side along ``axis``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        axis = attrs["axis"]
        shape = list(inputs[0].shape)
        shape[axis] = sum(v.shape[axis] for v in inputs)
        return [tuple(shape)]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        return [np.concatenate(arrays, axis=op.attrs["axis"])]

    def axes(self, op: Op, eq: Equations) -> None:
        axis = op.attrs["axis"]
        rows = [eq.of(v) for v in op.inputs]
        out = list(rows[0])
        for other in rows[1:]:
            for i, t in enumerate(other):
                if i != axis:
                    eq.equal(out[i], t)
        out[axis] = cat([r[axis] for r in rows])
        eq.set(op.output, out)

    def transfer(self, op: Op, flow: Flow) -> None:
        axis, parts = op.attrs["axis"], []
        for v in op.inputs:
            cells = flow.of(v)
            for i, (own, wanted) in enumerate(zip(flow.grid(v), flow.grid(op.output), strict=True)):
                cells = cells if i == axis else flow.meet(cells, i, own, wanted)
            parts.append(cells)
        flow.set(op.output, np.concatenate(parts, axis))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing(tuple(range(len(op.inputs))))


@dataclass(frozen=True)
class Rearrange(Base):
    """Positional moves along ``axes``: flip, roll. The axes cannot grow, the others pass."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [inputs[0].shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        axes = tuple(op.attrs["axes"])
        if op.attrs["how"] == "flip":
            return [np.flip(arrays[0], axes)]
        return [np.roll(arrays[0], tuple(op.attrs["shifts"]), axes)]

    def axes(self, op: Op, eq: Equations) -> None:
        x = list(eq.of(op.inputs[0]))
        for a in op.attrs["axes"]:
            eq.pin(x[a], "moves coordinates by position")
            x[a] = Term(x[a].size)
            eq.pin(x[a], "moves coordinates by position")
        eq.set(op.output, x)

    def transfer(self, op: Op, flow: Flow) -> None:
        x = flow.of(op.inputs[0])
        for a in op.attrs["axes"]:
            if x.shape[a] != 1:
                x = _join(flow, x, a, flow.grid(op.inputs[0])[a], "moves pieces")
        flow.set(op.output, x)

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


register("reshape", Reshape())
register("permute", Permute())
register("expand", Expand())
register("slice", Slice())
register("concat", Concat())
register("rearrange", Rearrange())
