"""PROP-alpha (MIDAS, arXiv:2409.19044): of k stages the i-th gets a share of i^alpha."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.base import Decision, Trigger, clock_name, positive


def proportional(total: float, stages: int, alpha: float = 1.0) -> list[int]:
    """Where the stages 1 to k-1 end: T_i = i^alpha / sum_j j^alpha * T.

    The paper's PROP-1, -2 and -3 are alpha = 1, 2, 3. Raises MeristemError where a stage would be empty.
    """
    positive(total, "PROP: total")
    positive(stages, "PROP: stages", whole=True)
    positive(alpha, "PROP: alpha", zero=True)
    shares = [i**alpha for i in range(1, stages + 1)]
    ends = [round(total * s / sum(shares)) for s in accumulate(shares)][:-1]
    if any(b <= a for a, b in zip([0, *ends], ends, strict=False)):
        raise MeristemError(
            f"PROP-{alpha:g}: {stages} stages do not fit into {total:g}; some would be empty: {ends}"
        )
    return ends


@dataclass(eq=False)
class Proportional(Trigger):
    """At the end of the first ``stages`` - 1 of ``stages`` stages of a run of length ``total``."""

    kind: ClassVar[str] = "proportional"

    total: float
    stages: int
    alpha: float = 1.0
    of: str = "step"

    def __post_init__(self) -> None:
        clock_name(self.of, "Proportional: of")
        self.ends = proportional(self.total, self.stages, self.alpha)
        self.firings = len(self.ends)  # type: ignore[misc]
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        """Fires once for each end, also where an update passes several."""
        now, fired = seen[self.of], self.state["fired"]
        if fired == len(self.ends):
            return Decision(False, f"{self.of} {now:g}: the last stage", now / self.total)
        end = self.ends[fired]
        word = "ends" if now >= end else "goes on"
        reason = f"{self.of} {now:g}: stage {fired + 1} of {self.stages} {word} at {end:g}"
        return Decision(now >= end, reason, now / self.total, {"end": end, "ends": self.ends})


__all__ = ["Proportional", "proportional"]
