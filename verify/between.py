"""How far two settings are from each other on the same model and the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.programs import Program
from meristem.verify.statistics import distances


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one output between two settings, for either model."""

    first: str
    second: str
    output: str
    original: float
    grown: float

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second} differ by {self.grown:.1e} in {self.output} "
            f"(the original: {self.original:.1e})"
        )


Key = tuple[str, str, str]  # two settings and an output


@dataclass
class Between:
    """Compares what programs give as they run; of every sample only the last outputs are kept."""

    _now: dict[str, Sample] = field(default_factory=dict)
    _kept: dict[str, dict[str, Sequence[Array]]] = field(default_factory=dict)
    _worst: dict[str, dict[Key, float]] = field(default_factory=dict)
    _groups: dict[str, str] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    """Settings in which the grown model gave something."""
    varying: set[str] = field(default_factory=set)
    """Settings of which nothing is said, as the original gives other numbers each time."""

    def watch(self, setting: str, group: str, program: Program, model: str) -> Program:
        """The same program; what it gives is compared with the other settings of its group."""
        self._groups[setting] = group
        return _Watched(self, setting, model, program)

    def seen(
        self, setting: str, model: str, sample: Sample, names: Sequence[str], got: Sequence[Array]
    ) -> None:
        """One run. Runs of one sample follow each other."""
        if model == "grown":
            self.ran.add(setting)
        now = self._now.get(model)
        if now is sample and setting in self._kept[model]:
            return  # once more, to see whether it gives the same
        if now is None or now.label != sample.label or setting in self._kept[model]:
            self._now[model], self._kept[model] = sample, {}
        kept, worst = self._kept[model], self._worst.setdefault(model, {})
        for other, theirs in kept.items():
            if self._groups[other] != self._groups[setting]:
                continue
            for name, a, b in zip(names, theirs, got, strict=False):
                key = other, setting, name
                worst[key] = max(worst.get(key, 0.0), _apart(a, b))
        kept[setting] = got

    def differences(self) -> list[Difference]:
        """Every pair of settings that both ran, the outputs in order."""
        old, new = (self._worst.get(m, {}) for m in ("original", "grown"))
        kept = (k for k in new if k in old and not self.varying & {*k[:2]})
        return [Difference(*key, old[key], new[key]) for key in kept]

    def notes(self) -> list[str]:
        """For each two runtimes and float type the settings and output where they are furthest apart."""
        furthest: dict[tuple[str, str, str], Difference] = {}
        for d in self.differences():
            pair = _place(d.first), _place(d.second), self._groups[d.first]
            if pair[0] != pair[1] and (pair not in furthest or d.grown > furthest[pair].grown):
                furthest[pair] = d
        return [str(d) for d in furthest.values()]


def _place(setting: str) -> str:
    return setting.split(",")[0]


def _apart(a: Array, b: Array) -> float:
    """Infinite where sizes differ, or only one is not a number."""
    return float(distances(a, b).max(initial=0.0)) if a.shape == b.shape else float("inf")


class _Watched:
    def __init__(self, between: Between, setting: str, model: str, program: Program) -> None:
        self.between, self.setting, self.model, self.program = between, setting, model, program
        self.outputs = program.outputs

    def __call__(self, sample: Sample) -> list[Array]:
        got = self.program(sample)
        self.between.seen(self.setting, self.model, sample, self.outputs, got)
        return got


__all__ = ["Between", "Difference"]
