"""What a loop measures, and what the triggers of a schedule need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import meristem
from meristem.training import Progress, Schedule


def refuse_needs(schedule: Any, measured: Sequence[str]) -> None:
    """Raises MeristemError where a trigger waits for what the loop never measures."""
    if not isinstance(schedule, Schedule):
        raise meristem.MeristemError(
            f"{type(schedule).__name__} is no schedule; give meristem.training.Schedule([Stage(...), ...])"
        )
    for number, stage in enumerate(schedule.stages, 1):
        trigger = stage.trigger or schedule.trigger
        odd = [n for n in trigger.needs if n not in measured]
        if odd:
            raise meristem.MeristemError(
                f"stage {number} waits for {odd[0]}=, which this loop does not measure; it has "
                f"{', '.join(measured)}. Take another trigger, or a loop of your own with training.Progress"
            )


def refuse_progress(progress: Progress, saved: Any) -> None:
    """Raises MeristemError where a state is of another schedule; before anything else is changed."""
    Progress(progress.schedule).load_state_dict(saved)


def observe(progress: Progress, **seen: Any) -> bool:
    """Ask the next stage's trigger, once everything that it needs is there; whether to grow now."""
    given = {n: v for n, v in seen.items() if v is not None}
    if progress.done or not given.keys() >= set(progress.needs):
        return False
    return bool(progress.update(**given))


__all__ = ["observe", "refuse_needs", "refuse_progress"]
