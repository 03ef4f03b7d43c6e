"""How the module of a run came from the one that it started with, as data that a checkpoint holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import meristem

VERSION = 1


@dataclass
class History:
    """The growths of a run, and what its module was before the first of them.

    ``plans`` are what was done, as JSON, and ``new`` how the optimizer's fresh entries were filled;
    ``programs`` are marks of the modules that came out, by which a replay is checked. ``start`` has the
    shapes of the first module's weights by name. ``log`` has an entry for each growth: step, changes,
    parameters before and after, FLOPs of one training step on the example before and after (None where
    they cannot be counted), what is ``uncounted`` in them or why they are None, seconds.
    """

    start: dict[str, list[int]] = field(default_factory=dict)
    plans: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def of(module: nn.Module) -> History:
        """Of a module that has not grown."""
        return History(start=shapes(module))

    @property
    def stage(self) -> int:
        """How often the module has grown."""
        return len(self.plans)

    def followed_by(
        self, plan: meristem.Plan, new: str, module: nn.Module, entry: dict[str, Any]
    ) -> History:
        """This history and one growth more."""
        return History(
            self.start,
            [*self.plans, plan.to_json()],
            [*self.new, new],
            [*self.programs, mark(module)],
            [*self.log, entry],
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data; ``from_data`` gives the history back."""
        return {
            "meristem_history": VERSION,
            "start": self.start,
            "growths": [
                {"plan": p, "new": n, "program": m, "log": e}
                for p, n, m, e in zip(self.plans, self.new, self.programs, self.log, strict=True)
            ],
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> History:
        """Raises CarrierError where the data is no history."""
        try:
            if data["meristem_history"] != VERSION:
                raise meristem.CarrierError(
                    "the history was written by another version of meristem"
                )
            growths = list(data["growths"])
            return History(
                {str(k): [int(n) for n in v] for k, v in data["start"].items()},
                *([g[key] for g in growths] for key in ("plan", "new", "program", "log")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise meristem.CarrierError(f"this is no history of growths: {error!r}") from error

    def refuse_other(self, module: nn.Module) -> None:
        """Raises CarrierError where ``module`` is not what this history starts from."""
        own = shapes(module)
        if own == self.start:
            return
        odd = sorted(own.keys() ^ self.start.keys())
        name = odd[0] if odd else next(n for n in self.start if own[n] != self.start[n])
        here, there = (
            tuple(side[name]) if name in side else "missing" for side in (own, self.start)
        )
        raise meristem.CarrierError(
            f"the checkpoint is of another model: {name} is {here} here and {there} in the model that the "
            "run started with; construct that one, and the growths are repeated on it",
            weight=name,
        )


def shapes(module: nn.Module) -> dict[str, list[int]]:
    """The shapes of a module's state by name."""
    return {n: list(t.shape) for n, t in module.state_dict().items()}


def mark(module: nn.Module) -> str:
    """What tells one program from another: its code under this torch, or the names of a class."""
    code = getattr(module, "code", None) or f"{type(module).__module__}.{type(module).__qualname__}"
    return f"torch {torch.__version__} {hashlib.sha256(str(code).encode()).hexdigest()}"


__all__ = ["History", "mark", "shapes"]
