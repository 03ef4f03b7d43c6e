"""Grow when a FLOP spent on the larger model lowers the loss more (arXiv:2203.06211)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError
from meristem.training.curve import FEWEST, Curve, local_slope
from meristem.training.triggers.base import Decision, Trigger, positive


@dataclass(eq=False)
class Slope(Trigger):
    """Fires when dL/dC of this model is flatter than that of the larger one at the same loss.

    ``larger`` is the loss curve of the larger model: fitted on a pilot (``fit_curve``), or predicted, such
    as from a scaling law. This model's slope is that of the last ``window`` losses against log C. ``hold``
    updates in a row must say so, for losses are noisy. FLOPs count this model's run from its beginning; the
    criterion is that of staged training, which grows where the two slopes meet.
    """

    kind: ClassVar[str] = "slope"

    larger: Curve
    window: int = 20
    hold: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.larger, Mapping):
            try:
                self.larger = Curve(**self.larger)
            except TypeError:
                self.larger = None  # type: ignore[assignment]
        if not isinstance(self.larger, Curve):
            raise MeristemError(
                "Slope has no data on the larger model: give larger=fit_curve(flops, losses) of a pilot of "
                "it, or a predicted Curve(limit, scale, exponent)"
            )
        positive(self.window, "Slope: window", whole=True)
        positive(self.hold, "Slope: hold", whole=True)
        if self.window < FEWEST:
            raise MeristemError(f"Slope: window is {self.window}; give at least {FEWEST}")
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("flops", "loss")

    def fresh(self) -> dict[str, Any]:
        return {"points": [], "held": 0}

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        flops, points = float(seen["flops"]), self.state["points"]
        last = points[-1][0] if points else 0.0
        if flops <= last:
            raise MeristemError(
                f"the trigger 'slope': two losses at {flops:g} FLOPs; give the FLOPs that were spent "
                "before each loss"
            )
        points.append([flops, seen["loss"]])
        del points[: -self.window]
        if len(points) < self.window:
            return Decision(False, f"{len(points)} of {self.window} losses so far")
        costs, losses = [p[0] for p in points], [p[1] for p in points]
        level = sum(losses[-FEWEST:]) / FEWEST
        own, other = local_slope(costs, losses), self.larger.slope(level)
        flatter = other < own
        self.state["held"] = self.state["held"] + 1 if flatter else 0
        fire = self.state["held"] >= self.hold
        measured = {"slope": own, "slope of the larger": other, "loss": level}
        reason = (
            f"at loss {level:.4g} a FLOP lowers it by {-own:.3g} here, by {-other:.3g} in the larger model"
            + (f", {self.state['held']} times in a row" if flatter else "")
        )
        if fire:
            self.state.update(self.fresh())
        return Decision(fire, reason, other / own if own < 0 else None, measured)


__all__ = ["Slope"]
