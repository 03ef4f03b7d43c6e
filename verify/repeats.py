"""Programs that give other numbers each time: what draws random numbers cannot be compared by them.

Its own spread would be taken for its rounding, and grant the same to everything. So the original runs a
second time on the same input: wherever a comparison begins, and wherever something is off by more than
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.programs import Program
from meristem.verify.statistics import distances


@dataclass
class Repeats:
    """Which settings have been looked at, and why those that vary do: a sentence by setting."""

    varying: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def new(self, setting: str) -> bool:
        """Is this the first time that the setting is asked about?"""
        first = setting not in self._seen
        self._seen.add(setting)
        return first

    def vary(
        self,
        setting: str,
        program: Program,
        sample: Sample,
        once: Sequence[Array],
        limits: Sequence[float],
    ) -> bool:
        """Does a second run differ from ``once`` by more than ``limits``, one for each output?"""
        why = varies(program, sample, once, limits)
        if why:
            self.varying[setting] = why
        return bool(why)


def varies(program: Program, sample: Sample, once: Sequence[Array], limits: Sequence[float]) -> str:
    """What is off by more than its limit between ``once`` and a second run on the same input; empty where
    nothing is."""
    rows = zip(program.outputs, once, program(sample), limits, strict=True)
    for name, a, b, limit in rows:
        if a.shape != b.shape:
            return _words(f"{name} is {a.shape}, then {b.shape}, on {sample}")
        apart = float(distances(a, b).max(initial=0.0))
        if apart > limit:
            return _words(f"{name} is off by {apart:.1e} on {sample}")
    return ""


def _words(how: str) -> str:
    return (
        f"the original gives other numbers each time ({how}); compare a model that draws none, as with "
        "dropout switched off"
    )


__all__ = ["Repeats", "varies"]
