"""Where a run stands in its growth schedule."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from meristem.rewrite.errors import MeristemError
from meristem.training.schedule import Schedule, Stage
from meristem.training.triggers import Decision, Trigger


class Progress:
    """Walks through the stages of a schedule. Nothing here grows or trains.

    progress = Progress(schedule, model)
    ...
    if progress.update(step=step, loss=loss):
        stage = progress.stage
        model = meristem.grow(model, stage.sizes, **stage.arguments)
        ...                                     # module, optimizer, scheduler
        progress.advance()

    A growth stays due until ``advance``. What is saved before it resumes before it, so that a run which
    was killed while it grew grows again. ``log`` lists the growths that were carried out.
    """

    def __init__(self, schedule: Schedule, model: Any = None) -> None:
        """``model`` (a ``meristem.Model``) is checked against the schedule; errors as of ``validate``."""
        if model is not None:
            schedule.validate(model)
        self.schedule = schedule.fresh()
        self.index = 0
        self.due: Decision | None = None
        self.log: list[dict[str, Any]] = []

    @property
    def stage(self) -> Stage | None:
        """The next growth; None where all are done."""
        stages = self.schedule.stages
        return stages[self.index] if self.index < len(stages) else None

    @property
    def trigger(self) -> Trigger | None:
        """What starts it."""
        stage = self.stage
        return None if stage is None else stage.trigger or self.schedule.trigger

    @property
    def needs(self) -> tuple[str, ...]:
        """The arguments without which ``update`` raises now; a loop may wait until it has them."""
        trigger = self.trigger
        return () if trigger is None or self.due else trigger.needs

    @property
    def done(self) -> bool:
        """Are all stages carried out?"""
        return self.stage is None

    def update(self, **seen: Any) -> Decision:
        """Whether to grow now, of the trigger of the next stage; arguments as of ``Trigger.update``.

        Triggers of later stages see nothing before their turn. The answer stays yes until ``advance``.
        """
        trigger = self.trigger
        if trigger is None:
            return Decision(False, "all stages are done")
        if self.due is None:
            decision = trigger.update(**seen)
            if not decision:
                return decision
            self.due = decision
        return self.due

    def advance(self) -> None:
        """The growth that was due is carried out, and the next stage waits.

        Raises MeristemError where none was due.
        """
        stage = self.stage
        if stage is None or self.due is None:
            raise MeristemError(
                "no growth is due; advance() is for after a growth that update() asked for"
            )
        entry = {"stage": self.index + 1, "name": stage.name, "sizes": dict(stage.sizes)}
        self.log.append({**entry, "method": stage.method, **self.due.data()})
        self.index += 1
        self.due = None

    def state_dict(self) -> dict[str, Any]:
        """The schedule, the stage, and what the triggers have seen: JSON-ready."""
        return {
            "schedule": self.schedule.data(),
            "index": self.index,
            "due": None if self.due is None else self.due.data(),
            "log": copy.deepcopy(self.log),
            "triggers": [t.state_dict() for t in self._triggers()],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``.

        Raises MeristemError where it is of another schedule or has another form; nothing changes then.
        """
        parts = {"schedule", "index", "due", "log", "triggers"}
        if not isinstance(saved, Mapping) or set(saved) != parts:
            raise MeristemError(
                "this is no state of a Progress; give what its state_dict() returned"
            )
        if saved["schedule"] != self.schedule.data():
            raise MeristemError(
                "this is the state of another schedule; resume with the schedule that the run began with:\n"
                f"{saved['schedule']}"
            )
        index = saved["index"]
        if not isinstance(index, int) or not 0 <= index <= len(self.schedule.stages):
            raise MeristemError(f"the state is at stage {index!r} of {len(self.schedule.stages)}")
        fresh = self.schedule.fresh()
        triggers = list(_triggers(fresh))
        if not isinstance(saved["triggers"], list) or len(triggers) != len(saved["triggers"]):
            raise MeristemError("the state has other triggers than the schedule")
        for trigger, state in zip(triggers, saved["triggers"], strict=True):
            trigger.load_state_dict(state)
        log = saved["log"]
        if not isinstance(log, list) or not all(isinstance(row, Mapping) for row in log):
            raise MeristemError(f"the log in the state is {log!r}, not a list of growths")
        decided = None if saved["due"] is None else Decision.from_data(saved["due"])
        self.schedule, self.index, self.due = fresh, index, decided
        self.log = copy.deepcopy(log)

    def _triggers(self) -> list[Trigger]:
        return _triggers(self.schedule)


def _triggers(schedule: Schedule) -> list[Trigger]:
    own = [s.trigger for s in schedule.stages if s.trigger is not None]
    return [*own, schedule.trigger] if schedule.trigger is not None else own


__all__ = ["Progress"]
