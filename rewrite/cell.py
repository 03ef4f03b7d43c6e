"""What is known of one block of a value: content, factor, sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meristem.rewrite.formula import FALSE, TRUE, Formula
from meristem.rewrite.scale import NONE, Linear

# The properties that a fresh weight block may be given.
ZERO, TWIN, POSITIVE = "zero", "twin", "positive"
PAIR, OPPOSITE = "pair", "opposite"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is known of one block.

    ``zero``: it is zero (fresh blocks, literal zeros). ``twins``: for each fresh digit, in order,
    "equal to the mean of the old along it", "a copy of the old" or "its halves are equal", by the digit's
    strategy. ``opposites``: for each fresh digit "its halves are opposite"; empty where nothing is known.
    ``scale``: logarithm of the factor of old coordinates; None where any factor fits (fresh blocks,
    zeros, infinities). ``nonneg``, ``pos``: sign. ``stuck``: it is zero and no gradient passes it.
    """

    zero: Formula = FALSE
    twins: tuple[Formula, ...] = ()
    scale: Linear | None = NONE
    nonneg: Formula = FALSE
    pos: Formula = FALSE
    opposites: tuple[Formula, ...] = ()
    stuck: Formula = FALSE

    def opposite(self, k: int) -> Formula:
        """Are the halves along the k-th fresh digit opposite (an odd one in the middle zero)?"""
        return self.opposites[k] if self.opposites else FALSE


Cells = Any  # a numpy array of Cell, one axis for each axis of the value
OLD = Cell()
OLD_NONNEG = Cell(nonneg=TRUE)
