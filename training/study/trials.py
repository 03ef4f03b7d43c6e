"""What a search has tried, and what of it is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

COMPLETE, FAILED, INFEASIBLE = "complete", "failed", "infeasible"
VERSION = 1

Point = tuple[float, float]


@dataclass(frozen=True)
class Trial:
    """One schedule. ``curve`` holds (FLOPs, loss) on the way and at the end; ``reason`` says why there is
    no result; ``budget`` are the FLOPs that it was given."""

    number: int
    state: str
    schedule: Mapping[str, Any]
    budget: float
    loss: float | None = None
    flops: float | None = None
    curve: tuple[Point, ...] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def scratch(self) -> bool:
        """Does nothing grow?"""
        return not self.schedule.get("stages")

    def __str__(self) -> str:
        """The schedule in words."""
        if not self.schedule:
            return ""
        start = _sizes(self.schedule["start"])
        if self.scratch:
            return f"from scratch: {start}"
        steps = [
            f"{_sizes(s['sizes'])} at {s['trigger']['at'] / self.budget:.0%} ({s['method']})"
            for s in self.schedule["stages"]
        ]
        return " -> ".join([start, *steps])


@dataclass(frozen=True)
class Found:
    """The trials of a search, and the front of loss against compute."""

    trials: Sequence[Trial]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def complete(self) -> list[Trial]:
        """Trials with a result."""
        return [t for t in self.trials if t.state == COMPLETE]

    @cached_property
    def front(self) -> list[Trial]:
        """Trials that no other beats in both loss and FLOPs, the cheapest first."""
        out: list[Trial] = []
        least = math.inf
        for t in sorted(self.complete, key=lambda t: (t.flops, t.loss, t.number)):
            assert t.loss is not None
            if t.loss < least:
                out.append(t)
                least = t.loss
        return out

    def saved(self, trial: Trial) -> float | None:
        """1 - FLOPs / FLOPs from scratch to the same loss; None where no run from scratch came to it.

        The cheapest of the runs from scratch counts, interpolated between the losses that it reported.
        """
        costs = [
            c for t in self.complete if t.scratch and (c := _cost(t.curve, trial.loss)) is not None
        ]
        return 1 - trial.flops / min(costs) if costs and trial.flops is not None else None

    def data(self) -> dict[str, Any]:
        """JSON-ready data: the settings, every trial, the numbers of those on the front."""
        rows = [
            {**asdict(t), "schedule": dict(t.schedule), "curve": [list(p) for p in t.curve],
             "saved": self.saved(t) if t.state == COMPLETE else None}
            for t in self.trials
        ]  # fmt: skip
        front = [t.number for t in self.front]
        return {
            "meristem_search": VERSION,
            "settings": dict(self.settings),
            "front": front,
            "trials": rows,
        }


def _cost(curve: Sequence[Point], loss: float | None) -> float | None:
    before: Point | None = None
    for flops, value in curve:
        if loss is not None and value <= loss:
            if before is None:
                return flops
            t = (before[1] - loss) / (before[1] - value)
            return before[0] + t * (flops - before[0])
        before = (flops, value)
    return None


def _sizes(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{s} {n}" for s, n in sizes.items())


__all__ = ["COMPLETE", "FAILED", "INFEASIBLE", "Found", "Trial"]
