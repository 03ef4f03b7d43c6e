"""Whether a growth schedule can be carried out, asked of the proof before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meristem.model import Model
from meristem.rewrite.errors import MeristemError
from meristem.training.schedule import Schedule


def feasible(build: Callable[[Mapping[str, int]], Model]) -> Callable[[Schedule], None]:
    """A function that raises what ``meristem.grow`` would for a schedule; ``check=`` of a search.

    ``build(start)`` is the traced model of the start sizes; it is called once for each of them. All stages
    but the last are carried out on it, untrained, for later ones stand on them.
    """
    from meristem.api import grow, plan

    models: dict[tuple[tuple[str, int], ...], Model] = {}

    def check(schedule: Schedule) -> None:
        key = tuple(sorted(schedule.start.items()))
        if key not in models:
            models[key] = _built(build, dict(schedule.start))
        model = models[key]
        schedule.validate(model)
        for number, stage in enumerate(schedule.stages, 1):
            arguments: dict[str, Any] = stage.arguments
            if number == len(schedule.stages):
                plan(model, stage.sizes, **arguments)
            else:
                model = grow(model, stage.sizes, **arguments)

    return check


def _built(build: Callable[[Mapping[str, int]], Model], start: Mapping[str, int]) -> Model:
    """Raises MeristemError where the caller's function fails or gives something else."""
    try:
        model = build(start)
    except MeristemError:
        raise
    except Exception as error:
        raise MeristemError(
            f"no model of the sizes {start} was made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, Model):
        raise MeristemError(
            f"the function that makes models returned a {type(model).__name__}; give a traced model, of "
            "meristem.trace"
        )
    return model


__all__ = ["feasible"]
