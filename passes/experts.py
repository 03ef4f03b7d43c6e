"""More experts in a mixture: every expert m times, and m times as many chosen (arXiv:2410.07524).

Copies have equal scores, so all copies of a chosen expert are chosen. Which factors keep their sum follows
from the form of the gates; the rules are in ``rewrite.semantics.chosen``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.passes.base import Atoms, WidthPass, refuse_shrinking
from meristem.rewrite.axes import Term, find
from meristem.rewrite.errors import SizeError
from meristem.rewrite.request import Wish, exact, wanted


@dataclass(frozen=True)
class Experts(WidthPass):
    """Experts, and how many of them are chosen, grow by one factor."""

    def solve_one(self, wish: Wish, lifted: bool) -> tuple[Atoms, int]:
        """Raises SizeError where the new number is no whole multiple."""
        d = wish.dimension
        size, rounded = wanted(wish.target, d.size)
        refuse_shrinking(d, size)
        times, rest = divmod(size, d.size)
        if rounded:
            times, rest = max(1, round(exact(wish.target, d.size) / d.size)), 0
        if rest:
            below, above = times * d.size, (times + 1) * d.size
            raise SizeError(
                f"{d.name} cannot be {size}: a new expert without equals would change which are chosen, so "
                f"that all {d.size} are repeated; possible near it: {below}, {above}",
                dimension=d.name,
                size=d.size,
                target=size,
                steps=[d.size],
            )
        experts, taken = find(d.term), find(d.inner[0])
        if times == 1:
            return {}, d.size
        return {experts: times * experts.size, taken: times * taken.size}, times * d.size


def strategies(t: Term, order: Sequence[str]) -> Sequence[str]:
    """What may be tried for an axis: one over which a router chooses grows by whole rounds of copies."""
    return ("copy",) if any(p.choice for p in find(t).pins) else order


EXPERTS = Experts(
    "experts", ("experts",), "every expert several times, and as many times as many chosen"
)
