"""Normalisation over axes, without its affine part (gain and bias are their own mul and add).

Let n be the old and n' the new number of normalised coordinates, V = sum of squares (centred for
LayerNorm). With zero fill (RMSNorm) or mean fill (LayerNorm) V is unchanged, so ``V/n' + eps*n/n' = (n/n')
* (V/n + eps)``: exact with eps*n/n', and the result carries the factor sqrt(n'/n), which the gain absorbs
(docs/passes/hidden.md). With copies mean and variance are unchanged. With ``statistics`` mean and variance
are taken over the old coordinates only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.blocks import COPIES, PAIRS, Block, combinations
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of
from meristem.rewrite.graph import Array, Literal, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.scale import NONE, Linear

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.sizes import SizeEdit, Sizes


@dataclass(frozen=True)
class Norm(Base):
    """y = (x - mean(x)) / sqrt(var(x) + eps) over ``axes``; without the mean where not ``center``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        return [inputs[0].shape]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, eps = arrays
        axes = tuple(op.attrs["axes"])
        if op.attrs["center"]:
            x = x - x.mean(axis=axes, keepdims=True)
        return [x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + eps)]

    def axes(self, op: Op, eq: Equations) -> None:
        eq.set(op.output, eq.of(op.inputs[0]))

    def transfer(self, op: Op, flow: Flow) -> None:
        _NormFlow(op, flow).run()

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        terms = sizes.terms(op.output)
        if "groups" in op.slots:  # x[n, groups, channels, ...]
            return sizes.scalar(op, "groups", terms[1])
        return sizes.vector(op, "normalized_shape", [terms[a] for a in op.attrs["axes"]])

    def vanishes(self, op: Op) -> Vanishing:
        eps = op.inputs[1]
        positive = isinstance(eps, Literal) and float(eps.data.min()) > 0
        return Vanishing((0,)) if positive else Vanishing()

    def poles(self, op: Op) -> tuple[int, ...]:
        return () if self.vanishes(op).operands else (0,)


class _NormFlow:
    def __init__(self, op: Op, flow: Flow) -> None:
        self.op, self.flow = op, flow
        self.over = tuple(op.attrs["axes"])
        self.center = bool(op.attrs["center"])
        self.cells = flow.of(op.inputs[0])
        self.grid = flow.grid(op.inputs[0])
        self.combos = list(combinations([len(self.grid[a]) for a in self.over]))
        digits = [d for a in self.over for b in self.grid[a] for d in b.digits if d.grown]
        self.atoms = sorted({d.atom for d in digits})
        grown = [d for a in self.over for b in self.grid[a] for d in b.digits if d.fresh]
        self.grows = bool(grown)
        used = {flow.growth.strategy(a) for a in self.atoms} if grown else set()
        self.strategies = {"copy" if s in COPIES else s for s in used}
        # Pairs change mean and variance as any new coordinates do.
        self.statistics = bool(self.strategies & {"statistics", "pair"})

    def run(self) -> None:
        flow = self.flow
        if len(self.strategies) > 1:
            flow.fail("normalises axes that grow by different strategies", self.atoms)
        if self.statistics and flow.compensate == "weights":
            flow.fail(
                "would take statistics over old coordinates, which weights alone do not say",
                self.atoms,
            )
        if self.statistics and self.op not in flow.statistics:
            flow.statistics.append(self.op)
        if "mean" in self.strategies:
            self._check_mean()
        if "copy" in self.strategies and len(self._copies()) > 1:
            flow.fail("normalises several pieces, of which some are copied more often", self.atoms)
        elif "copy" in self.strategies and not all(map(flow.growth.even, self.atoms)):
            flow.nearly("normalises coordinates that are not copied equally often", self.atoms)
        flow.set(self.op.output, flow.build(self.op.output, self._cell))

    def _check_mean(self) -> None:
        if not self.center:
            self.flow.fail("takes the mean of squares, which mean fill changes", self.atoms)
        old = [[b for b in self.grid[a] if not b.fresh] for a in self.over]
        digits = [d for blocks in old for d in blocks[0].digits if d.size > 1]
        if any(len(blocks) != 1 for blocks in old) or len(digits) != 1:
            self.flow.fail(
                "normalises several pieces at once, which mean fill does not keep", self.atoms
            )

    def _copies(self) -> set[float]:
        """How many times as many coordinates every old piece becomes."""
        out = set()
        for combo in self.combos:
            blocks = [self.grid[a][i] for a, i in zip(self.over, combo, strict=True)]
            if not any(b.fresh for b in blocks):
                grown = [d.atom for b in blocks for d in b.digits if d.grown]
                out.add(prod(self.flow.growth.ratio(a) for a in grown))
        return out

    def _row(self, index: tuple[int, ...]) -> list[tuple[Cell, tuple[Block, ...]]]:
        """Cells and blocks along the normalised axes, through the row of ``index``."""
        out = []
        for combo in self.combos:
            at = list(index)
            for a, i in zip(self.over, combo, strict=True):
                at[a] = i
            out.append(
                (
                    self.cells[tuple(at)],
                    tuple(self.grid[a][i] for a, i in zip(self.over, combo, strict=True)),
                )
            )
        return out

    def _cell(self, index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
        outside = [(a, atom) for a, atom in fresh if a not in self.over]
        if outside:
            return self._fresh_row(index, fresh)
        if not fresh:
            return Cell(scale=self._old_row(index))
        x: Cell = self.cells[index]
        if self.strategies == {"rms"}:
            return self.flow.unknown(fresh)
        if self.strategies == {"mean"}:
            return Cell(TRUE, (FALSE,) * len(fresh), None)
        if self.strategies == {"copy"}:
            return Cell(FALSE, x.twins, None)
        zero = x.zero if not self.center else FALSE
        twins = (
            x.twins if self.strategies and self.strategies <= {*PAIRS} else (FALSE,) * len(fresh)
        )
        if self.center:
            return Cell(zero, twins, None)
        return Cell(zero, twins, None, opposites=x.opposites, stuck=x.stuck)

    def _fresh_row(self, index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
        row = self._row(index)
        zero: Formula = all_of(c.zero for c, _ in row)
        x: Cell = self.cells[index]
        twins = []
        for k, (axis, atom) in enumerate(fresh):
            if not self.flow.growth.equal(atom):
                twins.append(FALSE)
            elif axis in self.over:  # within one row
                twins.append(x.twins[k])
            else:
                nth = sum(1 for a, _ in fresh[:k] if a not in self.over)
                twins.append(self._row_twin(index, row, nth))
        if not self._eps_positive():
            self.flow.fail(
                "has no epsilon, so a row of new zeros would be 0/0", [a for _, a in fresh]
            )
        return Cell(zero, tuple(twins), None)

    def _row_twin(self, index: tuple[int, ...], row: Sequence[Any], nth: int) -> Formula:
        """A row equals another where everything does that its mean and variance are taken of."""
        parts = [(self.cells[index], self._fresh_digits(index))]
        for combo, (cell, blocks) in zip(self.combos, row, strict=True):
            if not (self.statistics and any(b.fresh for b in blocks)):
                at = list(index)
                for a, i in zip(self.over, combo, strict=True):
                    at[a] = i
                parts.append((cell, self._fresh_digits(at)))
        return all_of(
            cell.twins[[k for k, (a, _) in enumerate(digits) if a not in self.over][nth]]
            for cell, digits in parts
        )

    def _fresh_digits(self, index: Sequence[int]) -> tuple[tuple[int, int], ...]:
        return self.flow.fresh_digits(self.grid, index)

    def _eps_positive(self) -> bool:
        eps = self.op.inputs[1]
        return isinstance(eps, Literal) and float(eps.data.min()) > 0

    def _old_row(self, index: tuple[int, ...]) -> Linear:
        flow = self.flow
        scales = []
        for cell, blocks in self._row(index):
            new = [d.atom for b in blocks for d in b.digits if d.fresh]
            if not new:
                scales.append(cell.scale)
            elif self.statistics:
                continue
            elif self.strategies == {"rms"}:
                flow.nearly("normalises new coordinates together with the old", new)
            elif self.strategies == {"copy"}:
                flow.oblige(all_of(cell.twins), "normalises copies, which must be equal", new)
            elif self.strategies == {"mean"}:
                flow.oblige(
                    all_of(cell.twins), "subtracts the mean, so new coordinates must equal it", new
                )
            elif self.center:
                flow.fail("subtracts the mean, which new zeros change", new)
            else:
                flow.oblige(cell.zero, "normalises new coordinates, which must be zero", new)
        x = flow.equal_scales(scales, "normalises blocks") or NONE
        rows = [index_blocks for _, index_blocks in self._row(index)]
        grows = any(d.fresh for blocks in rows for b in blocks for d in b.digits)
        kept = self.statistics or bool({"copy", "rms"} & self.strategies)
        gain = self._log_ratio() if grows and not kept else 0.0
        self._scale_eps(x * 2.0 + Linear(-gain))
        return Linear(gain / 2)

    def _scale_eps(self, wanted: Linear) -> None:
        eps = self.op.inputs[1]
        if isinstance(eps, Literal) and not np.any(eps.data):
            return
        cell: Cell = self.flow.of(eps).flat[0]
        self.flow.equal_scales([wanted, cell.scale], "adds its epsilon")

    def _log_ratio(self) -> float:
        terms = self.flow.eq.of(self.op.inputs[0])
        return sum(log(self.flow.growth.size(terms[a]) / terms[a].size) for a in self.over)


register("norm", Norm())
