"""Once, when a count of the run is reached: a step, a number of tokens, an amount of FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.training.triggers.base import Decision, Trigger, positive, whole


@dataclass(eq=False)
class _At(Trigger):
    firings: ClassVar[int | None] = 1

    at: float

    def __post_init__(self) -> None:
        if self.kind != "flops":
            self.at = whole(self.at)
        positive(self.at, f"{type(self).__name__}: at", whole=self.kind != "flops")
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.kind,)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        return reached(self, seen[self.kind], self.at, self.kind)


class AtStep(_At):
    """At the first update with ``step >= at``."""

    kind = "step"


class AtTokens(_At):
    """At the first update with ``tokens >= at``."""

    kind = "tokens"


class AtFlops(_At):
    """At the first update with ``flops >= at``."""

    kind = "flops"


def reached(trigger: Trigger, now: float, at: float, of: str) -> Decision:
    """Once, at the first count that is not below ``at``; the signal is what share of the way is done."""
    share = now / at
    if trigger.state["fired"]:
        return Decision(False, f"fired before, at {of} {at:g}", share)
    word = "reached" if now >= at else "before"
    return Decision(now >= at, f"{of} {now:g}: {word} {at:g}", share, {of: now, "at": at})


__all__ = ["AtFlops", "AtStep", "AtTokens", "reached"]
