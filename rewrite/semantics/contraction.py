"""Contractions: sums of products over shared labels (linear, matmul, attention, convolution).

Labels are integers; a label of both operands and the result is a batch axis, one of the operands alone
is summed. ``conv`` is a contraction over groups and channels whose spatial axes are positional.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term, prod
from meristem.rewrite.blocks import PAIRS, combinations
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, Formula, all_of, any_of
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.scale import Linear
from meristem.rewrite.semantics.functions import trailing
from meristem.rewrite.shares import stored_behind

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import SizeEdit, Sizes

Labels = tuple[int, ...]


def labels_of(op: Op) -> tuple[Labels, Labels, Labels]:
    """Labels of the first operand, the second, and the result."""
    a, b, out = op.attrs["labels"]
    return tuple(a), tuple(b), tuple(out)


@dataclass(frozen=True)
class Contract(Base):
    """y[out] = sum over the other labels of a[...] * b[...]  (einsum with integer labels)."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        a, b, out = attrs["labels"]
        size: dict[int, int] = {}
        for labels, value in ((a, inputs[0]), (b, inputs[1])):
            for k, n in zip(labels, value.shape, strict=True):
                if size.setdefault(k, n) != n:
                    raise ValueError(f"contraction: label {k} is both {size[k]} and {n}")
        return [tuple(size[k] for k in out)]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        labels = labels_of(op)
        number = {k: i for i, k in enumerate(dict.fromkeys(k for part in labels for k in part))}
        a, b, out = ([number[k] for k in part] for part in labels)  # einsum knows 52 letters
        return [np.einsum(arrays[0], a, arrays[1], b, out, optimize=True)]

    def axes(self, op: Op, eq: Equations) -> None:
        a, b, out = labels_of(op)
        term: dict[int, Term] = {}
        for labels, value in ((a, op.inputs[0]), (b, op.inputs[1])):
            for k, t in zip(labels, eq.of(value), strict=True):
                if k in term:
                    eq.equal(term[k], t)
                else:
                    term[k] = t
        eq.set(op.output, [term[k] for k in out])

    def transfer(self, op: Op, flow: Flow) -> None:
        Mixing(op, flow, *labels_of(op)).run()

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0, 1), any=True)


class Mixing:
    """The transfer of a contraction: obligations on what is summed, one cell per block of the result."""

    def __init__(self, op: Op, flow: Flow, a: Labels, b: Labels, out: Labels) -> None:
        self.op, self.flow = op, flow
        self.labels = (a, b)
        self.out = out
        self.blocks: dict[int, Any] = {}
        self.cells = []
        for labels, value in zip(self.labels, op.inputs, strict=False):
            cells = flow.of(value)
            for i, (k, g) in enumerate(zip(labels, flow.grid(value), strict=True)):
                cells = flow.meet(cells, i, g, self.blocks.setdefault(k, g))
            self.cells.append(cells)
        self.summed = [k for k in dict.fromkeys((*a, *b)) if k not in out]

    def run(self) -> None:
        flow = self.flow
        self.sums = [
            combo
            for combo in combinations([len(self.blocks[k]) for k in self.summed])
            if not any(
                flow.growth.phantom(d)
                for k, i in zip(self.summed, combo, strict=True)
                for d in self.blocks[k][i].digits
            )
        ]
        flow.set(self.op.output, flow.build(self.op.output, self._cell))

    def _at(self, side: int, where: dict[int, int]) -> Cell:
        cell: Cell = self.cells[side][tuple(where[k] for k in self.labels[side])]
        return cell

    def _cell(self, index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
        where = dict(zip(self.out, index, strict=True))
        zeros: list[Formula] = []
        stuck: list[Formula] = []
        twins: list[list[Formula]] = [[] for _ in fresh]
        opposites: list[list[Formula]] = [[] for _ in fresh]
        scales: list[Linear | None] = []
        for combo in self.sums:
            where.update(zip(self.summed, combo, strict=True))
            x, y = self._at(0, where), self._at(1, where)
            new = [
                d
                for k, i in zip(self.summed, combo, strict=True)
                for d in self.blocks[k][i].digits
                if d.fresh
            ]
            factors = [x.zero, y.zero] if self._incoming(new) else [y.zero, x.zero]
            vanishes = any_of([*self._cancels(where, new), *factors])
            zeros.append(vanishes)
            if not fresh and new:
                self._oblige(vanishes, x, y, where, new)
            elif not fresh:
                scales.append(self._scale(x, y, combo))
            else:
                stuck.append(any_of([x.stuck, y.stuck, all_of([x.zero, y.zero])]))
                for k, (axis, atom) in enumerate(fresh):
                    nothing = vanishes_for(self.labels, self.out[axis], x, y)
                    twins[k].append(any_of([self._twin(where, fresh, k, axis, atom), nothing]))
                    opposites[k].append(any_of([self._opposite(where, fresh, k, axis), nothing]))
        if not fresh:
            scale = self.flow.equal_scales(scales, "sums blocks")
            return Cell(all_of(zeros) if scale is None else FALSE, scale=scale)
        return Cell(
            all_of(zeros),
            tuple(all_of(t) for t in twins),
            None,
            opposites=tuple(all_of(t) for t in opposites),
            stuck=all_of(stuck),
        )

    def _oblige(
        self, vanishes: Formula, x: Cell, y: Cell, where: dict[int, int], new: Sequence[Any]
    ) -> None:
        atoms = [d.atom for d in new]
        growth = self.flow.growth
        if all(growth.copies(a) for a in atoms):
            copies = all_of((*self._summed_twins(0, x, where), *self._summed_twins(1, y, where)))
            self.flow.oblige(copies, "sums over copies, which must be equal", atoms)
            digits = ((k, d) for k in self.summed for d in self.blocks[k][where[k]].digits)
            loose = [d.atom for k, d in digits if d.fresh and not self._split(k)]
            if not all(growth.even(a) for a in loose):
                self.flow.fail(
                    "sums over copies that are not equally many, and no weight can share them",
                    loose,
                )
        elif any(growth.strategy(a) == "rms" for a in atoms):
            self.flow.nearly("sums new coordinates, which are not zero", atoms)
        else:
            self.flow.products.append((self.op, x, y, frozenset(atoms)))
            self.flow.oblige(
                vanishes, "sums over new coordinates, so one factor must be zero", atoms
            )

    def _incoming(self, new: Sequence[Any]) -> bool:
        """Is the first factor rather zero: what is summed, where the second is a weight that sums it?

        Of several ways to make a sum vanish the planner takes the first that is possible.
        """
        if not any(self.flow.growth.strategy(d.atom) == "incoming" for d in new):
            return False
        weights = [bool(self.flow.shared.get(v)) for v in self.op.inputs[:2]]
        return weights != [True, False]

    def _cancels(self, where: dict[int, int], new: Sequence[Any]) -> Iterator[Formula]:
        """For each summed digit of pairs: one operand's halves are equal there, the other's opposite.

        In new layers the opposite ones are stored, wherever that is possible.
        """
        later: list[Formula] = []
        for k in self.summed:
            digits = self.blocks[k][where[k]].digits
            fresh = [d for d in digits if d.fresh]
            for nth, d in enumerate(fresh):
                strategy = self.flow.growth.strategy(d.atom)
                if strategy not in PAIRS:
                    continue
                sides = [s for s in (0, 1) if k in self.labels[s]]
                own = [self._digit(s, where, k, nth) for s in sides]
                for n, side in enumerate(sides):
                    cancel = all_of(
                        c.opposite(i) if n == m else c.twins[i] for m, (c, i) in enumerate(own)
                    )
                    if strategy == "pair" or stored_behind(self.op.inputs[side]):
                        yield cancel
                    else:
                        later.append(cancel)
        yield from later

    def _digit(self, side: int, where: dict[int, int], label: int, nth: int) -> tuple[Cell, int]:
        """An operand's cell, and the number among all its fresh digits of the nth of a label."""
        before = sum(
            1
            for other in itertools.takewhile(lambda o: o != label, self.labels[side])
            for d in self.blocks[other][where[other]].digits
            if d.fresh
        )
        return self._at(side, where), before + nth

    def _summed_twins(self, side: int, cell: Cell, where: dict[int, int]) -> list[Formula]:
        own = iter(cell.twins)
        out = []
        for k in self.labels[side]:
            for d in self.blocks[k][where[k]].digits:
                if d.fresh:
                    twin = next(own)
                    if k in self.summed:
                        out.append(twin)
        return out

    def _split(self, label: int) -> bool:
        """Does one of the factors share its entries among the copies of a coordinate?"""
        return any(
            labels.index(label) in self.flow.shared.get(v, ())
            for labels, v in zip(self.labels, self.op.inputs, strict=False)
            if label in labels
        )

    def _scale(self, x: Cell, y: Cell, combo: tuple[int, ...]) -> Linear | None:
        if x.scale is None or y.scale is None:
            return None
        total = 0.0
        for k, i in zip(self.summed, combo, strict=True):
            for d in self.blocks[k][i].digits:
                if d.grown and self.flow.growth.copies(d.atom) and not self._split(k):
                    total += float(np.log(self.flow.growth.ratio(d.atom)))
                elif d.grown:
                    total += self.flow.growth.spread(d.atom)
        return x.scale + y.scale + Linear(total)

    def _twin(
        self, where: dict[int, int], fresh: Sequence[tuple[int, int]], k: int, axis: int, atom: int
    ) -> Formula:
        """Equal to the mean (or a copy) of the old along the k-th fresh digit of the result."""
        found = [c.twins[i] for c, i in self._carriers(where, fresh, k, axis)]
        if len(found) == 2 and not self.flow.growth.equal(atom):
            return FALSE  # a product of two means is not the mean of products
        return all_of(found)

    def _opposite(
        self, where: dict[int, int], fresh: Sequence[tuple[int, int]], k: int, axis: int
    ) -> Formula:
        """Opposite halves along the k-th fresh digit: those of one operand, where the other's are equal."""
        found = self._carriers(where, fresh, k, axis)
        return any_of(
            all_of(c.opposite(i) if n == m else c.twins[i] for m, (c, i) in enumerate(found))
            for n in range(len(found))
        )

    def _carriers(
        self, where: dict[int, int], fresh: Sequence[tuple[int, int]], k: int, axis: int
    ) -> list[tuple[Cell, int]]:
        """The operands that have the k-th fresh digit of the result, and its number in them."""
        label = self.out[axis]
        nth = sum(1 for a, _ in fresh[:k] if a == axis)
        return [
            self._digit(side, where, label, nth) for side in (0, 1) if label in self.labels[side]
        ]


def vanishes_for(labels: tuple[Labels, Labels], label: int, x: Cell, y: Cell) -> Formula:
    """The product is zero at the fresh block and at its source: a factor without the label is zero."""
    return any_of(c.zero for c, own in ((y, labels[1]), (x, labels[0])) if label not in own)


@dataclass(frozen=True)
class Conv(Base):
    """Grouped convolution: x[n, g, c, *s], w[g, o, c, *k] -> y[n, g, o, *t]; spatial axes positional."""

    transposed: bool = False

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        x, w = inputs[0].shape, inputs[1].shape
        if x[1] != w[0] or x[2] != w[2]:
            raise ValueError(f"convolution: {x} does not fit the kernel {w}")
        spatial = []
        for i, (n, k) in enumerate(zip(x[3:], w[3:], strict=True)):
            lo, hi = attrs["pads"][i]
            span = attrs["dilation"][i] * (k - 1) + 1
            spatial.append((n + lo + hi - span) // attrs["stride"][i] + 1)
        return [(x[0], x[1], w[1], *spatial)]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, w = arrays
        at = op.attrs
        rank = x.ndim - 3
        x = np.pad(x, [(0, 0)] * 3 + [tuple(p) for p in at["pads"]])
        out = op.output.shape
        sizes = [
            (x.shape[3 + i] - at["dilation"][i] * (w.shape[3 + i] - 1) - 1) // at["stride"][i] + 1
            for i in range(rank)
        ]
        y = np.zeros((x.shape[0], x.shape[1], w.shape[1], *sizes), np.result_type(x, w))
        for k in np.ndindex(*w.shape[3:]):
            window = tuple(
                slice(
                    k[i] * at["dilation"][i],
                    k[i] * at["dilation"][i] + (sizes[i] - 1) * at["stride"][i] + 1,
                    at["stride"][i],
                )
                for i in range(rank)
            )
            y += np.einsum("ngc...,goc->ngo...", x[trailing(window)], w[trailing(k)])
        assert y.ndim == len(out)
        return [y]

    def axes(self, op: Op, eq: Equations) -> None:
        x, w = eq.of(op.inputs[0]), eq.of(op.inputs[1])
        eq.equal(x[1], w[0])
        eq.equal(x[2], w[2])
        spatial = [Term(n) for n in op.output.shape[3:]]
        for i, (t, k, made) in enumerate(zip(x[3:], w[3:], spatial, strict=True)):
            eq.pin(k, "slides over it")
            if eq.grids:
                eq.spatial.append(t)
                if self._patches(op, i):
                    eq.equal(t, prod([made, k]))
                    continue
            eq.pin(t, "slides over it")
            eq.pin(made, "makes it by sliding")
        eq.set(op.output, [x[0], x[1], w[1], *spatial])

    @staticmethod
    def _patches(op: Op, i: int) -> bool:
        """Is every coordinate of a spatial axis read by one window alone, so that it is (place, patch)?"""
        n, k, made = (v.shape[3 + i] for v in (*op.inputs[:2], op.output))
        return bool(op.attrs["stride"][i] == k and made * k == n and not any(op.attrs["pads"][i]))

    def transfer(self, op: Op, flow: Flow) -> None:
        rank = len(op.output.shape) - 3
        a = (0, 1, 2, *(10 + i for i in range(rank)))
        b = (1, 3, 2, *(20 + i for i in range(rank)))
        mixing = Mixing(op, flow, a, b, (0, 1, 3, *(30 + i for i in range(rank))))
        for i, g in enumerate(flow.grid(op.output)[3:]):
            mixing.blocks[30 + i] = g
        mixing.run()

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        return sizes.scalar(op, "groups", sizes.terms(op.inputs[1])[0])

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0, 1), any=True)


@dataclass(frozen=True)
class GroupedContract(Base):
    """x[n, k], w[e, k, m], ends[e] -> y[n, m]: rows are multiplied by the matrix of their segment."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [(inputs[0].shape[0], inputs[1].shape[2])]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, w, ends = arrays
        y = np.zeros((x.shape[0], w.shape[2]), np.result_type(x, w))
        start = 0
        for e, end in enumerate(np.asarray(ends, np.int64)):
            y[start:end] = x[start:end] @ w[e]
            start = int(end)
        return [y]

    def axes(self, op: Op, eq: Equations) -> None:
        x, w, ends = (eq.of(v) for v in op.inputs)
        eq.equal(x[1], w[1])
        eq.equal(w[0], ends[0])
        eq.pin(
            w[0],
            "chooses among its entries by integers that depend on the data; where experts' weights are "
            "read by the places of the largest scores, or all experts are evaluated, their number can grow",
        )
        eq.set(op.output, [x[0], w[2]])

    def transfer(self, op: Op, flow: Flow) -> None:
        Mixing(op, flow, (0, 1), (4, 1, 2), (0, 2)).run()

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0, 1), any=True)


register("contract", Contract())
register("conv", Conv())
register("grouped_contract", GroupedContract())
