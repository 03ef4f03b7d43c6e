"""The loss gets no better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.training.triggers.base import Decision, Trigger, positive


@dataclass(eq=False)
class Plateau(Trigger):
    """The best of the last ``patience`` losses is not ``tolerance`` below the best before them.

        gain = 1 - min(L_{n-K+1..n}) / min(L_{1..n-K}) < tolerance        (K = patience)

    Convergent growth as in AutoGrow (arXiv:1906.02909), with a relative gain. ``window`` losses in a row
    are averaged to one, for noisy training losses; held-out losses need none. Having fired it starts over.
    ``relative=False`` compares the difference in the loss's own unit, for losses that are not positive.
    """

    kind: ClassVar[str] = "plateau"

    patience: int = 5
    tolerance: float = 0.01
    window: int = 1
    relative: bool = True

    def __post_init__(self) -> None:
        positive(self.patience, "Plateau: patience", whole=True)
        positive(self.tolerance, "Plateau: tolerance", zero=True)
        positive(self.window, "Plateau: window", whole=True)
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("loss",)

    def fresh(self) -> dict[str, Any]:
        return {"open": [], "recent": [], "best": None}

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        s = self.state
        s["open"].append(seen["loss"])
        full = len(s["open"]) == self.window
        if full:
            s["recent"].append(sum(s["open"]) / self.window)
            s["open"] = []
            if len(s["recent"]) > self.patience:
                oldest = s["recent"].pop(0)
                s["best"] = oldest if s["best"] is None else min(oldest, s["best"])
        if s["best"] is None:
            count = len(s["recent"])
            return Decision(False, f"{count} of {self.patience + 1} losses so far")
        before, now = s["best"], min(s["recent"])
        gain = before - now
        if self.relative:
            gain = gain / abs(before) if before else 0.0
        fire = full and gain < self.tolerance
        measured = {"best before": before, "best of the last": now}
        word = "below" if gain < self.tolerance else "at least"
        reason = f"gain {gain:.3g} in {self.patience} losses, {word} {self.tolerance:g}"
        if fire:
            s.update(self.fresh())
        return Decision(fire, reason, gain, measured)


__all__ = ["Plateau"]
