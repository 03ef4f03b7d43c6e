"""The growth schedules that a search may try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from meristem.rewrite.errors import MeristemError, SizeError
from meristem.rewrite.methods import method as method_of
from meristem.training.schedule import Schedule, Stage
from meristem.training.triggers import AtFlops
from meristem.training.triggers.base import positive

# Growths are placed on a grid, so that a schedule that comes again is recognised.
GRID = 0.05


@dataclass(frozen=True)
class Space:
    """From which sizes to ``target``, in how many growths, when and by what.

    ``start`` gives for each selector of ``target`` the sizes to begin with, which are the steps on the way
    too; without it these are halves and quarters of the target. ``growths`` is the largest number of
    growths, ``when`` from which share of a run to which they may come,
    ``spend`` the least share of the budget that a run is given: runs of several lengths make the front.
    ``options`` are those of every stage; ``at`` is left out where a stage has no layers.

    Raises SizeError where a start is above its target, MeristemError for the rest.
    """

    target: Mapping[str, int]
    start: Mapping[str, Sequence[int]] = field(default_factory=dict)
    methods: Sequence[str] = ("preserve",)
    growths: int = 2
    when: tuple[float, float] = (0.1, 0.9)
    spend: float = 0.25
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.target:
            raise SizeError('a search needs a target, as {"layers": 8, "hidden": 256}')
        for selector, size in self.target.items():
            positive(size, f"the target of {selector}", whole=True)
        for selector, sizes in self.start.items():
            if selector not in self.target:
                raise MeristemError(f"start gives {selector}, for which there is no target")
            for size in sizes:
                positive(size, f"the start of {selector}", whole=True)
                if size > self.target[selector]:
                    raise SizeError(
                        f"{selector} starts at {size}, above its target of {self.target[selector]}; sizes "
                        "only grow"
                    )
        if not self.methods:
            raise MeristemError("a search needs at least one method")
        for name in self.methods:
            method_of(name)
        positive(self.growths, "the number of growths", whole=True)
        low, high = self.when
        if not 0 < low <= high < 1:
            raise MeristemError(f"growths come between 0 and 1 of a run, not from {low} to {high}")
        if not 0 < self.spend <= 1:
            raise MeristemError(
                f"the least share of the budget is above 0 and at most 1, not {self.spend}"
            )
        if all(len(self.rungs(s)) == 1 for s in self.target):
            raise MeristemError(
                "nothing can grow: every start is the target; give smaller sizes to start"
            )

    def rungs(self, selector: str) -> list[int]:
        """Sizes on the way to the target, which is the last."""
        target = self.target[selector]
        given = self.start.get(selector) or [target // 4, target // 2]
        return sorted({n for n in given if n > 0} | {target})

    def suggest(self, trial: Any, budget: float) -> tuple[Schedule, float]:
        """A schedule and its own budget, drawn by an Optuna trial (or anything that suggests alike).

        Raises MeristemError where what was drawn is no schedule: a stage that grows nothing, two growths at
        one time.
        """
        growths = trial.suggest_int("growths", 1, self.growths)
        own = _share(trial, "spend", self.spend, 1.0) * budget
        rungs = {s: self.rungs(s) for s in self.target}
        level = {s: trial.suggest_int(f"start {s}", 0, len(r) - 1) for s, r in rungs.items()}
        start = {s: rungs[s][n] for s, n in level.items()}
        drawn = []
        for i in range(1, growths + 1):
            at = _share(trial, f"at {i}", *self.when)
            method = trial.suggest_categorical(f"method {i}", tuple(self.methods))
            top = {
                s: len(r) - 1 if i == growths else trial.suggest_int(f"size {i} {s}", 0, len(r) - 1)
                for s, r in rungs.items()
            }
            drawn.append((at, method, top))
        times = sorted(at for at, _, _ in drawn)
        if any(b <= a for a, b in pairwise(times)):
            raise MeristemError("two growths at one time")
        stages = []
        for at, (_, method, top) in zip(times, drawn, strict=True):
            reached = {s: max(level[s], n) for s, n in top.items()}
            sizes = {s: rungs[s][n] for s, n in reached.items() if n > level[s]}
            level = reached
            deeper = any(s.partition("@")[0].partition("#")[0] == "layers" for s in sizes)
            options = {n: v for n, v in self.options.items() if n != "at" or deeper}
            stages.append(Stage(sizes, AtFlops(at * own), method, options))
        return Schedule(stages, start), own

    def baselines(self, budget: float) -> list[tuple[Schedule, float]]:
        """What is tried first: from scratch, with the whole budget, the least share of it, and between."""
        shares = dict.fromkeys(_grid(s, 1.0) for s in (1.0, self.spend, math.sqrt(self.spend)))
        return [(Schedule([], dict(self.target)), s * budget) for s in shares]

    def data(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "target": dict(self.target),
            "start": {s: self.rungs(s) for s in self.target},
            "methods": list(self.methods),
            "growths": self.growths,
            "when": list(self.when),
            "spend": self.spend,
            "options": dict(self.options),
        }


def _grid(low: float, high: float) -> float:
    """The least share on a grid that ends at ``high``."""
    return round(high - int((high - low) / GRID + 1e-9) * GRID, 6)


def _share(trial: Any, name: str, low: float, high: float) -> float:
    least = _grid(low, high)
    if least == high:
        return high
    return round(float(trial.suggest_float(name, least, high, step=GRID)), 6)


__all__ = ["GRID", "Space"]
