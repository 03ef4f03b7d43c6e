"""Positions: longer tables of learned positions, and with them the masks and ids that bound a sequence.

CompoundGrow (arXiv:2010.12562) and AutoProg (arXiv:2203.14509) grow the length of the input. Rows of new
positions are read by longer inputs alone, so every input of an old length keeps its outputs, whatever
they hold. Stored masks and position ids go on by the rule that their entries follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.passes.base import Atoms, WidthPass
from meristem.rewrite.request import Wish, is_name, wanted


@dataclass(frozen=True)
class Positions(WidthPass):
    """A kind names tables and masks together; those that are long enough already stay."""

    def solve(
        self, wishes: Sequence[Wish], *, lifted: bool = False
    ) -> tuple[Atoms, dict[str, int]]:
        grows = {w.selector for w in wishes if _target(w) > w.dimension.size}
        long = [
            w
            for w in wishes
            if not is_name(w.selector) and w.selector in grows and _target(w) < w.dimension.size
        ]
        atoms, reached = super().solve([w for w in wishes if w not in long], lifted=lifted)
        return atoms, {**reached, **{w.dimension.name: w.dimension.size for w in long}}


def _target(wish: Wish) -> int:
    return wanted(wish.target, wish.dimension.size)[0]


POSITIONS = Positions(
    "positions", ("positions",), "longer sequences; new rows are drawn, given or interpolated"
)
