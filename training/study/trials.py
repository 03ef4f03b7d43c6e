"""What a search has tried, and what of it is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
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
        return bool(self.schedule) and not self.schedule["stages"]

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
        return self.front_of(self.complete)

    @staticmethod
    def front_of(trials: Sequence[Trial]) -> list[Trial]:
        """The same of some trials with a result."""
        out: list[Trial] = []
        least = math.inf
        for t in sorted(trials, key=lambda t: (t.flops, t.loss, t.number)):
            assert t.loss is not None
            if t.loss < least:
                out.append(t)
                least = t.loss
        return out

    def saved(self, trial: Trial) -> float | None:
        """1 - FLOPs / FLOPs from scratch to the same loss; None where no runs from scratch enclose it.

        Runs from scratch count by their ends alone, interpolated in the logarithm of the FLOPs: on the way
        their learning rate has not decayed, and against that anything would have saved much.
        """
        if trial.loss is None or trial.flops is None:
            return None
        ends: list[Point] = []
        for t in self.front_of([t for t in self.complete if t.scratch]):
            assert t.flops is not None
            assert t.loss is not None
            ends.append((t.flops, t.loss))
        for (c0, l0), (c1, l1) in pairwise([*ends[:1], *ends]):
            if l1 <= trial.loss <= l0:
                share = (l0 - trial.loss) / (l0 - l1) if l0 > l1 else 0.0
                return float(1 - trial.flops / (c0 * (c1 / c0) ** share))
        return None

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


def _sizes(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{s} {n}" for s, n in sizes.items())


__all__ = ["COMPLETE", "FAILED", "INFEASIBLE", "Found", "Trial"]
