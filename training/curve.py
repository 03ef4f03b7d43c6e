"""Loss curves as power laws of the compute: L(C) = limit + scale C^-exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.graph import Array

# Points that fix three numbers, with one to spare.
FEWEST = 4


@dataclass(frozen=True)
class Curve:
    """A fitted or predicted loss curve; C counts FLOPs of a run of that model from its beginning."""

    limit: float
    scale: float
    exponent: float

    def __post_init__(self) -> None:
        if not (
            math.isfinite(self.limit) and 0 < self.scale < math.inf and 0 < self.exponent < math.inf
        ):
            raise MeristemError(
                f"{self} is no loss curve: scale and exponent are positive, and all three finite"
            )

    def loss(self, flops: float) -> float:
        """The loss after so many FLOPs."""
        return float(self.limit + self.scale * flops**-self.exponent)

    def flops(self, loss: float) -> float:
        """The FLOPs to a loss; infinite at the limit and below."""
        if loss <= self.limit:
            return math.inf
        return float((self.scale / (loss - self.limit)) ** (1 / self.exponent))

    def slope(self, loss: float) -> float:
        """dL/dC where the curve has this loss: -exponent (L - limit) / C; zero at the limit and below."""
        flops = self.flops(loss)
        return -self.exponent * (loss - self.limit) / flops if flops < math.inf else 0.0


def fit_curve(flops: Sequence[float], losses: Sequence[float]) -> Curve:
    """The power law nearest a run, by least squares of the loss.

    For each limit below the least loss, scale and exponent are a line through the logarithms; the limit is
    searched on a grid that is refined. Raises MeristemError where points are too few, not finite, not
    positive, or do not fall.
    """
    c, y = np.asarray(flops, np.float64), np.asarray(losses, np.float64)
    if c.shape != y.shape or c.ndim != 1 or len(c) < FEWEST:
        raise MeristemError(
            f"fit_curve: {c.size} FLOPs and {y.size} losses; give one of each for at least {FEWEST} points"
        )
    if not (np.isfinite(c).all() and np.isfinite(y).all() and (c > 0).all()):
        raise MeristemError("fit_curve: FLOPs and losses are finite numbers, and FLOPs are above 0")
    low, span = float(y.min()), float(np.ptp(y))
    logs = np.log(c)
    if span == 0 or np.ptp(logs) == 0 or _line(logs, y)[0] >= 0:
        raise MeristemError("fit_curve: the losses do not fall with the compute; train longer")
    # Gaps between the limit and the least loss, as shares of what the loss fell by.
    shares = np.geomspace(1e-4, 1e2, 61)
    for _ in range(4):
        errors = [_error(logs, y, low - g * span) for g in shares]
        best = int(np.argmin(errors))
        shares = np.geomspace(shares[max(best - 1, 0)], shares[min(best + 1, len(shares) - 1)], 31)
    limit = low - float(shares[len(shares) // 2]) * span
    slope, level = _power(logs, y, limit)
    return Curve(limit, math.exp(level), -slope)


def _power(logs: Array, y: Array, limit: float) -> tuple[float, float]:
    return _line(logs, np.log(y - limit))


def _error(logs: Array, y: Array, limit: float) -> float:
    slope, level = _power(logs, y, limit)
    return (
        float(np.square(limit + np.exp(level + slope * logs) - y).sum()) if slope < 0 else math.inf
    )


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Slope and level at 0 of the line nearest."""
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    return slope, float(y.mean() - slope * x.mean())


def local_slope(flops: Sequence[float], losses: Sequence[float]) -> float:
    """dL/dC at the end of a window: the slope of the loss against log C there, divided by C.

    Over a window the three numbers of a power law cannot be told apart, but its slope can.
    """
    c = np.asarray(flops, np.float64)
    return _line(np.log(c), np.asarray(losses, np.float64))[0] / float(c[-1])


__all__ = ["FEWEST", "Curve", "fit_curve", "local_slope"]
