"""Query and key size of attention heads (arXiv:2308.06103 section 3.4).

New query rows may hold anything, new key rows are zero, and the scale stays 1/sqrt(k) of the old size
(or the keys absorb sqrt(k'/k) where only weights may change). Rotary pairs grow together: the axis is
``r + r`` (half-split) or ``r * 2`` (interleaved), and the frequency table continues by its own rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.passes.base import WidthPass


@dataclass(frozen=True)
class QKDim(WidthPass):
    """Query/key widening; sizes must keep rotary pairs whole."""

    def why(self, steps: Sequence[int]) -> str:
        """Rotary embeddings rotate pairs of coordinates."""
        if min(steps) == 2:
            return "its coordinates are rotated in pairs, so it must grow by an even number"
        return super().why(steps)


QK_DIM = QKDim(
    "qk_dim", ("qk_dim", "head_dim"), "wider queries and keys in every head; new keys start at zero"
)
