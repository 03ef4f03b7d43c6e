"""Depth: copies of residual blocks that compute nothing yet (arXiv:2308.06103 section 3.6).

x + B(x) with the factor of B nearest to the sum zero, as arXiv:2401.02415 does with output
projections; a gate where a norm follows the sum. Blocks that alternate grow by whole periods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meristem.passes.base import nearest, refuse_shrinking
from meristem.rewrite.request import Wish, wanted


@dataclass(frozen=True)
class LayersPass:
    """Growth of stacks. What a new block is follows from the graph, in ``rewrite.depth``."""

    name: str
    kinds: tuple[str, ...]
    summary: str

    def solve(self, wishes: Sequence[Wish], periods: Mapping[str, int]) -> dict[str, int]:
        """Numbers of blocks by dimension; ``periods`` by dimension, one where it is not listed.

        "xf" is rounded to whole periods. Raises SizeError for fewer blocks than today; numbers that
        are no whole period are refused with the possible ones when the blocks are planned.
        """
        out: dict[str, int] = {}
        for w in wishes:
            d = w.dimension
            size, rounded = wanted(w.target, d.size)
            refuse_shrinking(d, size)
            out[d.name] = nearest(d.size, size, [periods.get(d.name, 1)]) if rounded else size
        return out


LAYERS = LayersPass("layers", ("layers",), "more blocks, which start as the identity")
