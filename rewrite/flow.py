"""Abstract interpretation of a growth: what every block of every value holds.

Forward over the graph, each operator's ``transfer`` facet computes one ``Cell`` for every block of its
results and files obligations where it mixes coordinates. Nothing is decided here; the planner solves
the obligations and the scale system together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.blocks import COPIES, Block, Growth, source_block
from meristem.rewrite.cell import OPPOSITE, PAIR, POSITIVE, TWIN, ZERO, Cell, Cells
from meristem.rewrite.equations import Equations
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of, any_of, var
from meristem.rewrite.graph import Array, Input, Literal, Op, Value, Weight
from meristem.rewrite.registry import semantics
from meristem.rewrite.scale import NONE, Linear, ScaleSystem
from meristem.rewrite.shares import Axes, shared_axes


@dataclass(frozen=True, slots=True)
class Obligation:
    """What an operator needs of the content; ``why`` completes 'the operator ...'."""

    formula: Formula
    op: Op
    why: str
    atoms: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Failure:
    """A need that nothing can meet under the current strategies."""

    op: Op
    why: str
    atoms: frozenset[int]


@dataclass
class Flow:
    """State of one abstract interpretation.

    ``tolerant``: what would preserve the function but for the statistics of a norm is taken, and noted in
    ``inexact``.
    """

    eq: Equations
    growth: Growth
    compensate: str = "graph"
    boundary: str = "pin"
    scales: ScaleSystem = field(default_factory=ScaleSystem)
    obligations: list[Obligation] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    statistics: list[Op] = field(default_factory=list)
    products: list[tuple[Op, Cell, Cell, frozenset[int]]] = field(default_factory=list)
    cells: dict[Value, Cells] = field(default_factory=dict)
    weight_scales: dict[Weight, Cells] = field(default_factory=dict)
    literal_scales: dict[Literal, Linear] = field(default_factory=dict)
    shifts: dict[Weight, float] = field(default_factory=dict)
    remapped: list[tuple[Literal, Term]] = field(default_factory=list)
    opened: dict[Value, list[Formula]] = field(default_factory=dict)
    shared: dict[Value, Axes] = field(default_factory=dict)
    tolerant: bool = False
    inexact: list[Failure] = field(default_factory=list)
    op: Op | None = None

    def __post_init__(self) -> None:
        if any(s in (*COPIES, "rms", "incoming") for s in self.growth.strategies.values()):
            self.shared = shared_axes(self.eq.graph)

    def run(self) -> Flow:
        """Interpret the whole graph, then require that every output is preserved."""
        for op in self.eq.graph.ops:
            self.op = op
            semantics(op.kind).transfer(op, self)
        for _, value in self.eq.graph.outputs:
            for cell in self.of(value).flat:
                self.equal_scales([cell.scale, NONE], "is an output of the graph")
        return self

    # -- values ---------------------------------------------------------------------------------

    def grid(self, value: Value) -> tuple[tuple[Block, ...], ...]:
        """The blocks of every axis."""
        return tuple(self.growth.blocks(t) for t in self.eq.of(value))

    def of(self, value: Value) -> Cells:
        """The cells of a value; leaves are set up at their first use."""
        got = self.cells.get(value)
        if got is None:
            got = self.cells[value] = self._leaf(value)
        return got

    def set(self, value: Value, cells: Cells) -> None:
        """State the cells of a result.

        One cell where an axis has several old blocks holds for each of them: a rule that knows nothing
        of an axis' parts need not know how another operator cut it.
        """
        for axis, blocks in enumerate(self.grid(value)):
            if cells.shape[axis] != len(blocks):
                assert cells.shape[axis] == 1, (value, axis)
                assert not any(b.fresh for b in blocks), (value, axis)
                cells = np.repeat(cells, len(blocks), axis)
        self.cells[value] = cells

    def fill(self, value: Value, make: Cell) -> None:
        """Every old block of ``value`` is ``make``; fresh ones are finite and otherwise unknown."""
        self.set(value, self.build(value, lambda _, fresh: self.unknown(fresh) if fresh else make))

    def build(self, value: Value, make: object) -> Cells:
        """Cells by a function of (index, fresh digits)."""
        grid = self.grid(value)
        out = np.empty(tuple(len(g) for g in grid), object)
        for index in np.ndindex(out.shape):
            out[index] = make(index, self.fresh_digits(grid, index))  # type: ignore[operator]
        return out

    @staticmethod
    def fresh_digits(
        grid: Sequence[tuple[Block, ...]], index: Sequence[int]
    ) -> tuple[tuple[int, int], ...]:
        """(axis, atom) of every fresh digit of a block, in order."""
        return tuple(
            (axis, d.atom) for axis, i in enumerate(index) for d in grid[axis][i].digits if d.fresh
        )

    @staticmethod
    def unknown(fresh: Sequence[object]) -> Cell:
        """A fresh block of which nothing is known but that it is finite."""
        return Cell(twins=(FALSE,) * len(fresh), scale=None)

    def meet(self, cells: Cells, axis: int, own: Sequence[Block], wanted: Sequence[Block]) -> Cells:
        """Cells of an operand along an axis whose partner has other blocks.

        Only axes that do not align differ so. They are pinned, hence all old; what holds of every
        block is what is known of each.
        """
        if len(own) == len(wanted) and tuple(own) == tuple(wanted):
            return cells
        moved = np.moveaxis(cells, axis, -1)
        out = np.empty((*moved.shape[:-1], 1), object)
        for index in np.ndindex(moved.shape[:-1]):
            row: list[Cell] = list(moved[index])
            scale = self.equal_scales([c.scale for c in row], "meets pieces that do not align")
            out[(*index, 0)] = Cell(
                all_of(c.zero for c in row),
                tuple(all_of(c.twins[k] for c in row) for k in range(len(row[0].twins))),
                scale,
                all_of(c.nonneg for c in row),
                all_of(c.pos for c in row),
                tuple(all_of(c.opposite(k) for c in row) for k in range(len(row[0].twins))),
                all_of(c.stuck for c in row),
            )
        return np.repeat(np.moveaxis(out, -1, axis), len(wanted), axis)

    # -- leaves ---------------------------------------------------------------------------------

    def _leaf(self, value: Value) -> Cells:
        if isinstance(value, Weight):
            return self._weight(value)
        if isinstance(value, Literal):
            return self._literal(value)
        if isinstance(value, Input):
            fresh_zero = TRUE if self.boundary == "crop" else FALSE
            nonneg = TRUE if value.dtype == "bool" else FALSE  # an index may count from the end
            return self.build(
                value,
                lambda _, fresh: (
                    Cell(fresh_zero, (FALSE,) * len(fresh), None) if fresh else Cell(nonneg=nonneg)
                ),
            )
        raise AssertionError(f"{value!r} is used before it is computed")

    def _weight(self, w: Weight) -> Cells:
        grid = self.grid(w)
        scalable = w.is_float and w.role == "parameter"
        self._note_shift(w)
        flat = sum(n > 1 for n in w.shape) <= 1
        scales = np.empty(tuple(len(g) for g in grid), object)
        cells = np.empty(scales.shape, object)
        for index in np.ndindex(scales.shape):
            digits = self.fresh_digits(grid, index)
            parts = [k for k, d in enumerate(digits) if self.splits(w, *d)]
            if parts:
                cells[index] = self._share(cells, grid, index, parts)
            elif digits:
                cells[index] = self._fresh_weight(w, grid, index, digits)
            else:
                scale = self.scales.unknown(2 if flat else 1) if scalable else NONE
                scale = scale + Linear(-self._spread(w, grid, index))
                scales[index] = scale
                cells[index] = Cell(scale=scale)
        if scalable:
            self.weight_scales[w] = scales
        return cells

    def _fresh_weight(
        self,
        w: Weight,
        grid: Sequence[tuple[Block, ...]],
        index: tuple[int, ...],
        digits: Sequence[tuple[int, int]],
    ) -> Cell:
        zero = var((w, index), ZERO) if w not in self.shifts and not continues(w) else FALSE
        twins = []
        opposites = [FALSE] * len(digits)
        for k, (axis, atom) in enumerate(digits):
            if self.growth.strategy(atom) == "pair" and not self._unequal(w, grid, axis):
                twins.append(any_of([var((w, index), f"{PAIR}{k}"), zero]))
                opposites[k] = any_of([var((w, index), f"{OPPOSITE}{k}"), zero])
                continue
            if self.growth.strategy(atom) != "mean" and not self.growth.copies(atom):
                twins.append(FALSE)
                continue
            source = source_block(grid, index, k)
            both = FALSE
            if self.fresh_digits(grid, source) and w not in self.shifts:
                both = all_of([zero, var((w, source), ZERO)])
            twins.append(any_of([var((w, index), f"{TWIN}{k}"), both]))
        positive = var((w, index), POSITIVE)
        return Cell(zero, tuple(twins), None, positive, positive, tuple(opposites))

    def _unequal(self, w: Weight, grid: Sequence[tuple[Block, ...]], axis: int) -> bool:
        """May the coordinates of an axis get different shares, so that halves along it are not equal?"""
        atoms = {d.atom for b in grid[axis] for d in b.digits if d.grown}
        return any(self.splits(w, axis, a) for a in atoms)

    def _spread(
        self, w: Weight, grid: Sequence[tuple[Block, ...]], index: tuple[int, ...]
    ) -> float:
        """By how much a weight is smaller (in logarithms), as it sums more coordinates of like size."""
        axes = self.shared.get(w, ())
        digits = (d for a in axes for d in grid[a][index[a]].digits)
        return sum(self.growth.spread(d.atom) for d in digits if d.grown)

    def splits(self, value: Value, axis: int, atom: int) -> bool:
        """Do replicas of an atom's coordinates share the entries of ``value`` along an axis?"""
        return axis in self.shared.get(value, ()) and self.growth.copies(atom)

    @property
    def parted(self) -> frozenset[int]:
        """Atoms whose copies some weight shares: unequal shares let them part under training."""
        return frozenset(
            d.atom
            for w in self.shared
            if isinstance(w, Weight)
            for axis, blocks in enumerate(self.grid(w))
            for b in blocks
            for d in b.digits
            if d.grown and self.splits(w, axis, d.atom)
        )

    def _share(
        self,
        cells: Cells,
        grid: Sequence[tuple[Block, ...]],
        index: tuple[int, ...],
        parts: Sequence[int],
    ) -> Cell:
        """A block of shares: with the others along its axis it sums to what the block before held."""
        source = index
        for k in reversed(parts):
            source = source_block(grid, source, k)
        whole: Cell = cells[source]
        twins, opposites = list(whole.twins), list(whole.opposites)
        for k in parts:
            twins.insert(k, TRUE)
            opposites[k:k] = [FALSE] if whole.opposites else []
        return Cell(whole.zero, tuple(twins), None, opposites=tuple(opposites))

    def _note_shift(self, w: Weight) -> None:
        """A weight used only as ``literal + w``: the sum is what scales (gains stored as w = gain - 1)."""
        value: Value = w
        while len(value.uses) == 1 and value.uses[0][0].kind in ("cast", "identity"):
            value = value.uses[0][0].output
        if len(value.uses) != 1 or value.uses[0][0].kind != "add" or w.role != "parameter":
            return
        op, position = value.uses[0]
        other = op.inputs[1 - position]
        if isinstance(other, Literal) and other.data.size == 1 and float(other.data.flat[0]) != 0:
            self.shifts[w] = float(other.data.flat[0])

    def _literal(self, value: Literal) -> Cells:
        data: Array = value.data
        numeric = data.dtype.kind in "fiub" and data.size > 0
        free = value.is_float and numeric and bool(np.all((data == 0) | np.isinf(data)))
        scale: Linear | None = None if free else NONE
        if value.implicit and self.compensate == "weights":
            scale = self._default_scale(value)
        if self._editable(value) and not free:
            scale = self.literal_scales[value] = self.scales.unknown(3)
        low = float(data.min()) if numeric else -1.0
        old = Cell(
            zero=TRUE if numeric and not np.any(data) else FALSE,
            scale=scale,
            nonneg=TRUE if low >= 0 else FALSE,
            pos=TRUE if low > 0 else FALSE,
        )
        return self.build(value, lambda _, fresh: self.unknown(fresh) if fresh else old)

    def _default_scale(self, value: Literal) -> Linear:
        """1/sqrt(size) of the attention's summed axis, as a class with the new size computes it."""
        contraction = value.uses[0][0].inputs[0].producer
        assert contraction is not None
        t = self.eq.of(contraction.inputs[0])[-1]
        return Linear(-0.5 * log(self.growth.size(t) / t.size))

    def _editable(self, value: Literal) -> bool:
        """Epsilons and clamps: scalars that are summed or compared with what scales."""
        kinds = {op.kind for op, _ in value.uses}
        return (
            self.compensate == "graph"
            and value.is_float
            and value.data.size == 1
            and value.slot is not None
            and len(value.uses) == 1
            and kinds <= {"add", "sub", "maximum", "minimum", "norm"}
        )

    # -- facts ----------------------------------------------------------------------------------

    def oblige(self, formula: Formula, why: str, atoms: Sequence[int] = ()) -> None:
        """File what the current operator needs."""
        assert self.op is not None
        if formula is TRUE:
            return
        if formula is FALSE:
            self.fail(why, atoms)
        else:
            self.obligations.append(Obligation(formula, self.op, why, frozenset(atoms)))

    def fail(self, why: str, atoms: Sequence[int] = ()) -> None:
        """The current operator does not preserve the function under the current strategies."""
        assert self.op is not None
        self.failures.append(Failure(self.op, why, frozenset(atoms)))

    def nearly(self, why: str, atoms: Sequence[int] = ()) -> None:
        """The current operator preserves the function nearly: a failure, where that is not accepted."""
        assert self.op is not None
        if self.tolerant:
            self.inexact.append(Failure(self.op, why, frozenset(atoms)))
        else:
            self.fail(why, atoms)

    def equal_scales(self, scales: Sequence[Linear | None], why: str) -> Linear | None:
        """All the given factors must be one; the common one, or None where any fits."""
        known = [s for s in scales if s is not None]
        if not known:
            return None
        for other in known[1:]:
            if other is not known[0] and not self.scales.equate(known[0], other):
                atoms = tuple(self.growth.names)
                self.fail(f"{why} and meets two different scale factors", atoms)
                break
        return known[0]

    def require_unscaled(self, scale: Linear | None, why: str) -> None:
        """A nonlinear operator: its operand must keep its scale."""
        self.equal_scales([NONE, scale] if scale is not None else [], why)


def continues(w: Weight) -> bool:
    """Is this a table that is stored, not learned, and goes on by its own rule (rotary frequencies)?

    Zero would preserve the function as well, but new pairs would then carry no position for ever.
    """
    if w.role == "parameter" or not w.is_float or sum(n > 1 for n in w.shape) != 1:
        return False
    data = np.asarray(w.array(), np.float64).ravel()
    return bool(np.all(data > 0) and np.all(np.diff(data) < 0))
