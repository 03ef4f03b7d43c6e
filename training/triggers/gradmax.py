"""How much gradient new units could get, and where (GradMax, arXiv:2201.05125)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.base import Decision, Trigger, finite, positive

# Keeps ratios finite, so that they go into JSON.
TINY = 1e-30


@dataclass(frozen=True)
class Score:
    """What growth can win at one place.

    ``attainable``: squared norm of the gradient that the best, second best, ... new unit gets, sigma_i^2 of
    the auxiliary gradient times the squared length of what sums a unit; ``present``: the squared norm of
    the gradient that the place's weights have now.
    """

    attainable: tuple[float, ...]
    present: float

    def ratio(self, units: int) -> float:
        """Gradient that so many new units get, by that of the old weights; huge where these have none."""
        return sum(self.attainable[:units]) / max(self.present, TINY)


@dataclass(eq=False)
class GradMaxScore(Trigger):
    """Fires where new units would get more than ``threshold`` times the gradient of the old weights.

    ``scores`` of an update are Scores by place (``training.growth_scores`` measures them). The score of a
    place is sum sigma_i^2 over the best ``units`` new units, GradMax's own, here by the squared norm of the
    present gradient, so that a threshold serves all places (this project's form; that of SENN, eta_new /
    eta_old > tau, is alike). ``where`` lists the places above the threshold, the best first.
    """

    kind: ClassVar[str] = "gradmax"

    threshold: float = 1.0
    units: int = 1

    def __post_init__(self) -> None:
        positive(self.threshold, "GradMaxScore: threshold")
        positive(self.units, "GradMaxScore: units", whole=True)
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("scores",)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        given = seen["scores"]
        good = isinstance(given, Mapping) and given
        if not good or not all(isinstance(s, Score) for s in given.values()):
            raise MeristemError(
                "the trigger 'gradmax' has no data: scores= is what training.growth_scores(...) returns, a "
                "mapping of places to Scores"
            )
        for place, s in given.items():
            for x in (*s.attainable, s.present):
                finite(x, f"the trigger 'gradmax': the score of {place}", seen)
        ratio = {p: s.ratio(self.units) for p, s in given.items()}
        order = sorted(ratio, key=lambda p: (-ratio[p], p))
        above = tuple(p for p in order if ratio[p] > self.threshold)
        best = order[0]
        reason = (
            f"{self.units} new unit{'s' * (self.units > 1)} at {best} would get {ratio[best]:.3g} times "
            f"the gradient of the old weights there; {len(above)} of {len(ratio)} places are above "
            f"{self.threshold:g}"
        )
        return Decision(bool(above), reason, ratio[best], {"ratio": ratio}, above)


__all__ = ["GradMaxScore", "Score"]
