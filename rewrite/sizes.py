"""What the sizes among an operator's attributes become: the emission side of ``Semantics.sizes``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.blocks import Growth
from meristem.rewrite.edits import SizeEdit
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Op, Value

__all__ = ["SizeEdit", "Sizes"]


class Sizes:
    """Queries that the ``sizes`` facets ask, answered for one growth."""

    def __init__(self, eq: Equations, growth: Growth) -> None:
        self.eq, self.growth = eq, growth

    def terms(self, value: Value) -> tuple[Term, ...]:
        return self.eq.of(value)

    def touches(self, t: Term) -> bool:
        return self.growth.touches(t)

    def size(self, t: Term) -> int:
        return self.growth.size(t)

    def offset(self, whole: Term, old: int) -> int:
        """Where the old offset ``old`` of an axis lies after growth.

        Fresh coordinates directly before an old one belong to what precedes it.
        """
        source, _ = self.growth.coordinates(whole)
        if old >= whole.size:
            return len(source)
        return int(np.flatnonzero(source == old)[0])

    def vector(self, op: Op, slot: str, terms: Sequence[Term]) -> list[SizeEdit]:
        """Entries of a shape vector whose axis grows."""
        if slot not in op.slots:
            return []
        return [
            SizeEdit(op.slots[slot], i, t.size, self.size(t))
            for i, t in enumerate(terms)
            if self.touches(t) and self.size(t) != t.size
        ]

    def scalar(self, op: Op, slot: str, t: Term) -> list[SizeEdit]:
        """A single number that is the size of an axis."""
        if slot not in op.slots or self.size(t) == t.size:
            return []
        return [SizeEdit(op.slots[slot], None, t.size, self.size(t))]

    def number(self, op: Op, name: str, old: int, new: int) -> list[SizeEdit]:
        """A single number among the attributes (a start, an end, a length)."""
        if name not in op.slots:
            return []
        return [SizeEdit(op.slots[name], None, int(old), int(new))] if old != new else []
