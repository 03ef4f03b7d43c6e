"""Again and again, after so many steps, tokens or FLOPs: a strong baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.training.triggers.base import Decision, Trigger, clock_name, positive, whole


@dataclass(eq=False)
class Every(Trigger):
    """At each multiple of ``every`` after ``start``; ``of`` is "step", "tokens" or "flops".

    An update that passes several multiples fires once. Growing by the clock, well before convergence, is
    a strong baseline in most works.
    """

    kind: ClassVar[str] = "every"

    every: float
    of: str = "step"
    start: float = 0

    def __post_init__(self) -> None:
        clock_name(self.of, "Every: of")
        if self.of != "flops":
            self.every, self.start = whole(self.every), whole(self.start)
        positive(self.every, "Every: every", whole=self.of != "flops")
        positive(self.start, "Every: start", whole=self.of != "flops", zero=True)
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def fresh(self) -> dict[str, Any]:
        return {"periods": 0}

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        now = seen[self.of]
        periods = int(max(now - self.start, 0) // self.every)
        fire = periods > self.state["periods"]
        self.state["periods"] = max(periods, self.state["periods"])
        share = max(now - self.start, 0) / self.every
        return Decision(fire, f"{self.of} {now:g}: {share:.4g} periods of {self.every:g}", share)


__all__ = ["Every"]
