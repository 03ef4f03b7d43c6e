"""Sparse upcycling: an MLP becomes a mixture of experts that are copies of it (arXiv:2212.05055).

Which MLPs a graph has, and what they become, is in ``rewrite.mlps`` and ``rewrite.upcycle``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.passes.base import refuse_shrinking
from meristem.rewrite.errors import SizeError
from meristem.rewrite.request import Wish, wanted


@dataclass(frozen=True)
class UpcyclePass:
    """Numbers of experts for MLPs, which have one each."""

    name: str
    kinds: tuple[str, ...]
    summary: str

    def solve(self, wishes: Sequence[Wish], top: int) -> dict[str, int]:
        """Numbers of experts by dimension, one where nothing is asked.

        Raises SizeError for fewer than one, and where a token would take more experts than there are.
        """
        out: dict[str, int] = {}
        for w in wishes:
            d = w.dimension
            size, _ = wanted(w.target, d.size)
            refuse_shrinking(d, size)
            if d.size < size < top:
                raise SizeError(
                    f"{d.name} would have {size} experts, of which each token takes {top}; ask for "
                    f'{top} or more, or for method="upcycle:top={size}"',
                    dimension=d.name,
                    size=d.size,
                    target=size,
                )
            out[d.name] = size
        return out


UPCYCLE = UpcyclePass("upcycle", ("experts",), "experts that are copies of an MLP, and a router")
