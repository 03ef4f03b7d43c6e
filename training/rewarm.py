"""Learning rates after a growth: shapes of a re-warm-up, and a schedule that torch has not.

A shape says what the learning rate of a group is, from what the run's own schedule gives it now and from
what it was at the growth. ``Rewarmed`` puts a shape around any scheduler of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from meristem.rewrite.errors import MeristemError
from meristem.training.scheduler import set_rate
from meristem.training.triggers.base import positive


class Shape(Protocol):
    """The learning rate ``since`` steps after the growth."""

    def __call__(self, since: int, scheduled: float, at_growth: float) -> float: ...


@dataclass(frozen=True)
class Overshoot:
    """For new parameters (SPARKLING, arXiv:2602.02472): up to ``ratio`` times the rate at the growth in
    ``steps`` steps, then down a cosine to ``floor`` at ``total`` steps after the growth.

        lr = e (1 + (rho - 1) t / tau)                          t < tau
        lr = floor + (rho e - floor) (1 + cos(pi (t - tau) / (T - tau))) / 2

    rho = 1.25 to 1.3 and tau = 0 to 250 in the paper; the old parameters stay on the run's schedule, and
    its peak is kept.
    """

    total: int
    ratio: float = 1.3
    steps: int = 250
    floor: float = 0.0

    def __post_init__(self) -> None:
        positive(self.total, "Overshoot: total", whole=True)
        positive(self.ratio, "Overshoot: ratio")
        positive(self.steps, "Overshoot: steps", whole=True, zero=True)
        positive(self.floor, "Overshoot: floor", zero=True)
        if self.steps >= self.total:
            raise MeristemError(
                f"Overshoot: {self.steps} steps of warm-up do not end before {self.total}; give the "
                "steps that are left as total="
            )

    def __call__(self, since: int, scheduled: float, at_growth: float) -> float:
        if since < self.steps:
            return at_growth * (1 + (self.ratio - 1) * since / self.steps)
        t = min((since - self.steps) / (self.total - self.steps), 1.0)
        return self.floor + (self.ratio * at_growth - self.floor) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Ramp:
    """For all parameters: ``start`` of the schedule's rate at the growth, the whole of it after ``steps``.

    FLM-101B (arXiv:2309.03852) warms up again for about 100 steps at each growth.
    """

    steps: int = 100
    start: float = 0.0

    def __post_init__(self) -> None:
        positive(self.steps, "Ramp: steps", whole=True)
        positive(self.start, "Ramp: start", zero=True)

    def __call__(self, since: int, scheduled: float, at_growth: float) -> float:
        return scheduled * (self.start + (1 - self.start) * min(since / self.steps, 1.0))


@dataclass(frozen=True)
class Scaled:
    """The schedule's rate times a constant; Net2Net (arXiv:1511.05641) takes 0.1 for converged networks."""

    factor: float = 0.1

    def __post_init__(self) -> None:
        positive(self.factor, "Scaled: factor")

    def __call__(self, since: int, scheduled: float, at_growth: float) -> float:
        return scheduled * self.factor


class Rewarmed:
    """A scheduler whose rates have a shape for some groups from now on.

    ``scheduler`` is any of torch's; it sees its own rates at each of its steps, so that those which compute
    the next rate from the last stay right. ``groups`` are indices of the optimizer's param groups: those of
    new parameters, or None for all. Wrapping at the growth sets their rates at once. A second growth wraps
    again.

    Raises MeristemError where there is no such group.
    """

    def __init__(self, scheduler: Any, shape: Shape, groups: Iterable[int] | None = None) -> None:
        count = len(scheduler.optimizer.param_groups)
        chosen = list(range(count)) if groups is None else sorted(set(groups))
        if not chosen or not all(isinstance(g, int) and 0 <= g < count for g in chosen):
            raise MeristemError(
                f"groups are {chosen}; give indices of the optimizer's {count} param groups, or None "
                "for all"
            )
        self.scheduler, self.shape, self.groups = scheduler, shape, chosen
        self.since = 0
        self.scheduled = self._rates()
        self.at_growth = dict(self.scheduled)
        self._apply()

    @property
    def optimizer(self) -> Any:
        """The optimizer of the scheduler inside."""
        return self.scheduler.optimizer

    @property
    def last_epoch(self) -> int:
        """That of the scheduler inside."""
        return int(self.scheduler.last_epoch)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the scheduler inside (whose arguments these are), then the shape."""
        self._set(self.scheduled)
        self.scheduler.step(*args, **kwargs)
        self.scheduled = self._rates()
        self.since += 1
        self._apply()

    def keep_groups(self, count: int) -> None:
        """Forget groups from this number on: they were fused again (``carry_scheduler`` calls it)."""
        self.groups = [g for g in self.groups if g < count]
        self.scheduled = {g: r for g, r in self.scheduled.items() if g < count}
        self.at_growth = {g: r for g, r in self.at_growth.items() if g < count}

    def get_last_lr(self) -> list[float]:
        """The rates that the optimizer has, all groups."""
        return [float(g["lr"]) for g in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Its own state and that of the scheduler inside."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "shape": _shape_data(self.shape),
            "groups": list(self.groups),
            "since": self.since,
            "scheduled": {str(g): r for g, r in self.scheduled.items()},
            "at_growth": {str(g): r for g, r in self.at_growth.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; the optimizer's rates are set to what they were.

        Raises MeristemError where it is of another shape or of other groups; nothing changes then.
        """
        own = {"shape": _shape_data(self.shape), "groups": list(self.groups)}
        theirs = {n: saved.get(n) for n in own} if isinstance(saved, Mapping) else {}
        if theirs != own or set(saved) != set(self.state_dict()):
            raise MeristemError(f"this is the state of {theirs}, not of {own}; wrap as the run did")
        self.scheduler.load_state_dict(saved["scheduler"])
        self.since = int(saved["since"])
        self.scheduled = {int(g): float(r) for g, r in saved["scheduled"].items()}
        self.at_growth = {int(g): float(r) for g, r in saved["at_growth"].items()}
        self._apply()

    def _rates(self) -> dict[int, float]:
        groups = self.optimizer.param_groups
        return {g: float(groups[g]["lr"]) for g in self.groups}

    def _apply(self) -> None:
        self._set(
            {g: self.shape(self.since, r, self.at_growth[g]) for g, r in self.scheduled.items()}
        )

    def _set(self, rates: Mapping[int, float]) -> None:
        for g, rate in rates.items():
            set_rate(self.optimizer.param_groups[g], rate)


@dataclass
class WSD:
    """Warm-up, stable, decay: the factor of step t, for ``torch.optim.lr_scheduler.LambdaLR``.

        (t + 1) / warmup            t < warmup
        1                           up to total - decay
        floor + (1 - floor) d(x)    x from 0 to 1 over the decay

    d(x) is 1 - x ("linear"), 1 - sqrt(x) ("sqrt") or (1 + cos(pi x)) / 2 ("cosine"). Under it the time of a
    growth is free (``triggers.Mixing``), because the rate is the same all through the stable phase; torch
    has no such schedule. Not frozen, for LambdaLR saves and restores it by its attributes.
    """

    total: int
    warmup: int = 0
    decay: int = 0
    floor: float = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        positive(self.total, "WSD: total", whole=True)
        positive(self.warmup, "WSD: warmup", whole=True, zero=True)
        positive(self.decay, "WSD: decay", whole=True, zero=True)
        positive(self.floor, "WSD: floor", zero=True)
        if self.shape not in _DECAYS:
            raise MeristemError(f"WSD: the decay is {', '.join(_DECAYS)}, not {self.shape!r}")
        if self.warmup + self.decay > self.total:
            raise MeristemError(
                f"WSD: a warm-up of {self.warmup} and a decay of {self.decay} do not fit into {self.total}"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = self.total - self.decay
        if step <= left or not self.decay:
            return 1.0
        return self.floor + (1 - self.floor) * _DECAYS[self.shape](
            min((step - left) / self.decay, 1.0)
        )


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}


def _shape_data(shape: Any) -> dict[str, Any]:
    if hasattr(shape, "__dataclass_fields__"):
        return {"kind": type(shape).__name__, **asdict(shape)}
    return {"kind": getattr(shape, "__qualname__", type(shape).__name__)}


__all__ = ["WSD", "Overshoot", "Ramp", "Rewarmed", "Scaled", "Shape"]
