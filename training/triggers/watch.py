"""Signals of saturation without growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.base import SEEN, Decision, Trigger


class Watch:
    """Updates several triggers with what there is, and keeps what they say; nothing grows.

    Each trigger is updated when everything that it ``needs`` is given, so that a loop can call ``update``
    at each step with what it has then. ``log`` holds the decisions as data, with the names of the triggers
    and the step.
    """

    def __init__(self, **triggers: Trigger) -> None:
        if not triggers:
            raise MeristemError(
                "Watch has nothing to watch; give triggers by name: Watch(loss=Plateau())"
            )
        self.triggers = triggers
        self.log: list[dict[str, Any]] = []

    def update(self, **seen: Any) -> dict[str, Decision]:
        """What the triggers say that had their data, by name; arguments as of ``Trigger.update``.

        Raises MeristemError where an argument is none of those, so that no misspelt one is ignored.
        """
        odd = sorted(seen.keys() - set(SEEN))
        if odd:
            raise MeristemError(
                f"update() was given {odd[0]}=, which no trigger reads; give {', '.join(SEEN)}"
            )
        given = {n for n, v in seen.items() if v is not None}
        out = {n: t.update(**seen) for n, t in self.triggers.items() if given >= set(t.needs)}
        self.log += [{"name": n, "step": seen.get("step"), **d.data()} for n, d in out.items()]
        return out

    @property
    def silent(self) -> list[str]:
        """Triggers that never had their data."""
        heard = {row["name"] for row in self.log}
        return [n for n in self.triggers if n not in heard]

    def state_dict(self) -> dict[str, Any]:
        """States by name and the log, JSON-ready."""
        states = {n: t.state_dict() for n, t in self.triggers.items()}
        return {"triggers": states, "log": [dict(row) for row in self.log]}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; MeristemError where it is of other triggers, and nothing changes."""
        form = isinstance(saved, Mapping) and set(saved) == {"triggers", "log"}
        if not form or set(saved["triggers"]) != set(self.triggers):
            names = sorted(saved["triggers"]) if form else "none"
            raise MeristemError(
                f"this is the state of the triggers {names}, not of {sorted(self.triggers)}"
            )
        before = {n: t.state_dict() for n, t in self.triggers.items()}
        try:
            for name, trigger in self.triggers.items():
                trigger.load_state_dict(saved["triggers"][name])
        except MeristemError:
            for name, trigger in self.triggers.items():
                trigger.load_state_dict(before[name])
            raise
        self.log = [dict(row) for row in saved["log"]]


__all__ = ["Watch"]
