"""Grow so late that the grown model just has the time to mix (arXiv:2511.04981)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.at import reached
from meristem.training.triggers.base import Decision, Trigger, clock_name, finite, positive


def mixing_time(
    at: Sequence[float],
    grown: Sequence[float],
    scratch: Sequence[float],
    growth: float,
    tolerance: float = 0.005,
) -> float:
    """t_mix of a pilot: how long after the growth the two losses agree for good.

    ``at`` are steps (or tokens), ``grown`` and ``scratch`` the losses there of the run that grew at
    ``growth`` and of the one that was large from the start; they agree where grown <= (1 + tolerance)
    scratch. The paper's gaps are below 0.5%. Under a warm-up, stable, decay schedule t_mix hardly depends
    on when one grows, so that one early growth of a small model measures it.

    Raises MeristemError where they do not agree at the end of the pilot.
    """
    if not len(at) == len(grown) == len(scratch):
        raise MeristemError(
            f"mixing_time: {len(at)} points, {len(grown)} and {len(scratch)} losses; give as many of each"
        )
    after = [
        (t, finite(g, "mixing_time: loss") <= (1 + tolerance) * finite(s, "mixing_time: loss"))
        for t, g, s in zip(at, grown, scratch, strict=True)
        if t >= growth
    ]
    if not after or not after[-1][1]:
        raise MeristemError(
            "mixing_time: the losses do not agree at the end of the pilot; train it longer, or give a "
            "larger tolerance"
        )
    met = after[-1][0]
    for t, agree in reversed(after):
        if not agree:
            break
        met = t
    return met - growth


@dataclass(eq=False)
class Mixing(Trigger):
    """At ``total`` - ``mixing``, where ``mixing`` is t_mix of a pilot (``mixing_time``).

    The rule holds while the learning rate is constant: ``warmup`` and ``decay`` are the lengths of these
    phases of the schedule, and a growth inside them is refused. Source: arXiv:2511.04981 (2% warm-up, 10%
    decay, one growth at about 0.8 of the run, the same learning rate); under a cosine it fails late.
    """

    kind: ClassVar[str] = "mixing"
    firings: ClassVar[int | None] = 1

    total: float
    mixing: float
    warmup: float = 0
    decay: float = 0
    of: str = "step"

    def __post_init__(self) -> None:
        clock_name(self.of, "Mixing: of")
        positive(self.total, "Mixing: total")
        positive(self.mixing, "Mixing: mixing")
        positive(self.warmup, "Mixing: warmup", zero=True)
        positive(self.decay, "Mixing: decay", zero=True)
        self.at = self.total - self.mixing
        if not max(self.warmup, 1) <= self.at <= self.total - self.decay:
            raise MeristemError(
                f"Mixing: growth at {self.total:g} - {self.mixing:g} = {self.at:g} is not in the stable "
                f"phase, from {max(self.warmup, 1):g} to {self.total - self.decay:g}; "
                + ("train longer" if self.at < max(self.warmup, 1) else "decay for a shorter time")
            )
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.of,)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        return reached(self, seen[self.of], self.at, self.of)


__all__ = ["Mixing", "mixing_time"]
