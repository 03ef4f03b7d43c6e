"""When a run grows to what: stages with triggers, and which of them is next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import meristem


class Asked(Protocol):
    """What a trigger must offer; those of ``meristem.training`` do.

    ``needs`` names the arguments of ``update`` without which it cannot decide; the answer is true where the
    run is to grow.
    """

    @property
    def needs(self) -> Sequence[str]: ...

    def update(self, **seen: Any) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, saved: Any) -> None: ...


@dataclass(frozen=True)
class Stage:
    """A growth that waits: when ``trigger`` fires, the dimensions get ``sizes``.

    ``method`` and ``options`` are those of ``meristem.grow``.
    """

    sizes: Mapping[str, int | str]
    trigger: Asked
    method: str = "preserve"
    options: Mapping[str, Any] = field(default_factory=dict)


class Stages:
    """Stages one after another; only the next one's trigger is asked."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        wrong = [s for s in self.stages if not isinstance(s, Stage)]
        if not self.stages or wrong:
            raise meristem.MeristemError(
                f"stages={stages!r} are no stages; give a list of Stage(sizes, trigger)"
            )
        self.done = 0
        self.due = False

    @property
    def next(self) -> Stage | None:
        """The stage that waits for its trigger, or for its growth."""
        return self.stages[self.done] if self.done < len(self.stages) else None

    def update(self, **seen: Any) -> bool:
        """Ask the next stage's trigger, if this is what it needs; whether a growth is due."""
        stage = self.next
        given = {n: v for n, v in seen.items() if v is not None}
        if stage is not None and not self.due and given.keys() >= set(stage.trigger.needs):
            self.due = bool(stage.trigger.update(**given))
        return self.due

    def grown(self) -> None:
        """The growth that was due is done."""
        self.done, self.due = self.done + 1, False

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        triggers = [s.trigger.state_dict() for s in self.stages]
        return {"done": self.done, "due": self.due, "triggers": triggers}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; MeristemError where it is of other stages."""
        if len(saved["triggers"]) < saved["done"] or len(self.stages) < saved["done"]:
            raise meristem.MeristemError(
                f"the run has grown {saved['done']} times, and there are {len(self.stages)} stages; give "
                "those of the run that is resumed, more may follow them"
            )
        for stage, state in zip(self.stages, saved["triggers"], strict=False):
            stage.trigger.load_state_dict(state)
        self.done, self.due = int(saved["done"]), bool(saved["due"])


class AtStep:
    """TEMPORARY"""

    needs = ("step",)

    def __init__(self, at):
        self.at, self.fired = at, False

    def update(self, *, step, **_):
        fire = step >= self.at and not self.fired
        self.fired |= fire
        return fire

    def state_dict(self):
        return {"fired": self.fired}

    def load_state_dict(self, saved):
        self.fired = saved["fired"]


__all__ = ["Asked", "Stage", "Stages"]
