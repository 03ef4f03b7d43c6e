"""A growth schedule as data: stages with sizes, method, options and trigger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meristem.rewrite.errors import MeristemError, SelectorError, SizeError
from meristem.rewrite.methods import method as method_of
from meristem.rewrite.request import check_target, exact, resolve, wanted
from meristem.training.triggers import (
    AtFlops,
    AtStep,
    AtTokens,
    Trigger,
    proportional,
    trigger_from,
)
from meristem.training.triggers.base import positive

VERSION = 1
# Options of meristem.grow that are data. Models and losses are given when a stage is carried out.
OPTIONS = ("boundary", "compensate", "at", "seed")
_AT = {"step": AtStep, "tokens": AtTokens, "flops": AtFlops}


@dataclass(frozen=True)
class Stage:
    """One growth: ``sizes`` and the other arguments of ``meristem.grow``, and the trigger that starts it.

    Without a trigger the schedule's own counts. ``name`` is for logs.
    """

    sizes: Mapping[str, int | str]
    trigger: Trigger | None = None
    method: str = "preserve"
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments: ``meristem.grow(model, stage.sizes, **stage.arguments)``."""
        return {"method": self.method, **self.options}

    def data(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "name": self.name,
            "sizes": dict(self.sizes),
            "method": self.method,
            "options": json.loads(json.dumps(dict(self.options))),
            "trigger": None if self.trigger is None else self.trigger.data(),
        }

    def __str__(self) -> str:
        return ", ".join(f"{s}={n}" for s, n in self.sizes.items())


@dataclass(frozen=True)
class Schedule:
    """Growths in their order. ``start`` are sizes that the model begins with, where they are known;
    ``trigger`` serves all stages that have none.

    Making one validates what can be seen without a model (``validate``), so that a schedule which cannot
    be carried out does not begin.
    """

    stages: Sequence[Stage]
    start: Mapping[str, int] = field(default_factory=dict)
    trigger: Trigger | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        self.validate()

    @classmethod
    def proportional(
        cls,
        stages: Sequence[Stage],
        total: float,
        alpha: float = 1.0,
        of: str = "step",
        start: Mapping[str, int] | None = None,
    ) -> Schedule:
        """Stages at the times of PROP-alpha (MIDAS): a run of ``total`` in one stage more than growths."""
        if of not in _AT:
            raise MeristemError(f"a schedule counts {', '.join(_AT)}, not {of!r}")
        ends = proportional(total, len(stages) + 1, alpha)
        made = [replace(s, trigger=_AT[of](e)) for s, e in zip(stages, ends, strict=True)]
        return cls(made, start or {})

    def validate(self, model: Any = None) -> None:
        """Check everything that can be checked before anything starts.

        ``model`` is a ``meristem.Model`` (only its ``dimensions`` are read): its sizes are where the first
        stage starts; without it, ``start`` is. Raises SizeError where a stage shrinks or nothing grows,
        with the sizes; SelectorError and PinnedDimension as ``meristem.grow`` would; MeristemError where a
        stage has no trigger, a method is unknown or triggers are out of order. What only the proof can say
        (a feasible multiple, a method that does not fit) ``meristem.plan`` says, stage by stage.
        """
        for number, stage in enumerate(self.stages, 1):
            self._check_stage(number, stage)
        self._check_times()
        if model is None:
            self._check_alone()
        else:
            self._check_model(model)

    def data(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "meristem_schedule": VERSION,
            "start": dict(self.start),
            "trigger": None if self.trigger is None else self.trigger.data(),
            "stages": [s.data() for s in self.stages],
        }

    def to_json(self) -> str:
        """Stable text; ``from_json`` gives the schedule back."""
        return json.dumps(self.data(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Raises MeristemError where the text is no schedule, and what ``validate`` raises."""
        try:
            data = json.loads(text)
        except (ValueError, TypeError) as error:
            raise MeristemError(f"this is no schedule: {error}") from error
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any) -> Schedule:
        """A schedule with fresh triggers from ``data()``."""
        version = data.get("meristem_schedule") if isinstance(data, Mapping) else None
        if version != VERSION:
            raise MeristemError(
                f'this is no schedule: "meristem_schedule" is {version!r}, and {VERSION} is known'
            )
        rows = data.get("stages")
        if not isinstance(rows, list):
            raise MeristemError(f'this is no schedule: "stages" is {rows!r}; give a list of stages')
        stages = [_stage(number, row) for number, row in enumerate(rows, 1)]
        own, start = data.get("trigger"), data.get("start") or {}
        if not isinstance(start, Mapping):
            raise MeristemError(
                f'this is no schedule: "start" is {start!r}; give sizes by selector'
            )
        return cls(stages, start, None if own is None else trigger_from(own))

    def fresh(self) -> Schedule:
        """The same schedule with triggers that have seen nothing."""
        return Schedule.from_data(self.data())

    def __str__(self) -> str:
        start = ", ".join(f"{k}={n}" for k, n in self.start.items())
        return " -> ".join([start or "the model as it is", *map(str, self.stages)])

    # -- checks ----------------------------------------------------------------------------------

    def _check_stage(self, number: int, stage: Stage) -> None:
        word = f"stage {number}"
        if not isinstance(stage, Stage):
            raise MeristemError(f"{word} is {stage!r}; give Stage(sizes, trigger=...)")
        if not isinstance(stage.sizes, Mapping) or not stage.sizes:
            raise SizeError(f'{word} grows nothing: give sizes, as {{"mlp": "x2"}}', stage=number)
        for selector, target in stage.sizes.items():
            check_target(f"{word}: {selector}", target)
            shrinking = (
                isinstance(target, str) and target.strip().startswith("x") and exact(target, 1) < 1
            )
            if shrinking or (isinstance(target, int) and target < 1):
                raise SizeError(
                    f"{word} shrinks {selector} to {target}; sizes only grow",
                    stage=number,
                    selector=selector,
                )
        method_of(stage.method)
        for name in stage.options:
            if name not in OPTIONS:
                raise MeristemError(
                    f"{word}: {name!r} is no option of a stage; give {', '.join(OPTIONS)}"
                )
        if stage.trigger is None and self.trigger is None:
            raise MeristemError(
                f"{word} has no trigger: give Stage(..., trigger=AtStep(1000)), or Schedule(..., "
                "trigger=Plateau())",
                stage=number,
            )

    def _check_times(self) -> None:
        shared = sum(s.trigger is None for s in self.stages)
        most = shared if self.trigger is None else self.trigger.firings
        if self.trigger is not None and most is not None and most < shared:
            raise MeristemError(
                f"{shared} stages wait for the trigger {self.trigger.kind!r}, which fires {most} times"
            )
        last: dict[str, tuple[int, float]] = {}
        for number, stage in enumerate(self.stages, 1):
            t = stage.trigger
            if not isinstance(t, (AtStep, AtTokens, AtFlops)):
                continue
            before, at = last.get(t.kind, (0, 0.0))
            if t.at <= at:
                raise MeristemError(
                    f"stage {number} starts at {t.kind} {t.at:g}, not after stage {before} at {at:g}"
                )
            last[t.kind] = (number, t.at)
        seen: set[int] = set()
        for number, stage in enumerate(self.stages, 1):
            if stage.trigger is not None and id(stage.trigger) in seen:
                raise MeristemError(
                    f"stage {number} shares its trigger with another; give it as the schedule's trigger="
                )
            seen.add(id(stage.trigger))

    def _check_alone(self) -> None:
        """Without a model: the same selectors, in the order of the stages."""
        for selector, size in self.start.items():
            positive(size, f"start: {selector}", whole=True)
        known: dict[str, int | None] = dict(self.start)
        for number, stage in enumerate(self.stages, 1):
            before = {s: known.get(s) for s in stage.sizes}
            for selector, target in stage.sizes.items():
                was = before[selector]
                if was is None:
                    known[selector] = target if isinstance(target, int) else None
                    continue
                after, _ = wanted(target, was)
                refuse_shrinking(number, selector, was, after)
                known[selector] = after
            if all(before[s] is not None and before[s] == known[s] for s in stage.sizes):
                _refuse_nothing(number, stage)

    def _check_model(self, model: Any) -> None:
        dimensions = list(model.dimensions)
        deeper = False
        for number, stage in enumerate(self.stages, 1):
            boundary = stage.options.get("boundary", "pin")
            try:
                wishes = resolve(dimensions, stage.sizes, boundary=boundary)
            except SelectorError:
                # A place in a block that is not there yet has no name here.
                if deeper:
                    continue
                raise
            reached: dict[str, int] = {}
            for w in wishes:
                after, _ = wanted(w.target, w.dimension.size)
                refuse_shrinking(number, w.dimension.name, w.dimension.size, after)
                reached[w.dimension.name] = after
            if all(reached[d.name] == d.size for d in dimensions if d.name in reached):
                _refuse_nothing(number, stage)
            deeper |= any(w.dimension.kind == "layers" for w in wishes)
            dimensions = [
                replace(d, size=reached[d.name]) if d.name in reached else d for d in dimensions
            ]


def _stage(number: int, row: Any) -> Stage:
    if not isinstance(row, Mapping) or "sizes" not in row:
        raise MeristemError(
            f'this is no schedule: stage {number} is {row!r}; give at least its "sizes"'
        )
    given = row.get("trigger")
    trigger = None if given is None else trigger_from(given)
    options = row.get("options") or {}
    if not isinstance(options, Mapping):
        raise MeristemError(
            f"this is no schedule: the options of stage {number} are {options!r}; give them by name"
        )
    return Stage(row["sizes"], trigger, row.get("method", "preserve"), options, row.get("name", ""))


def supplies(method: str) -> tuple[str, ...]:
    """Which of ``loss`` and ``models`` the growth by a method uses, besides sizes and options.

    Others are refused by ``meristem.grow``. Raises MeristemError where the method is unknown.
    """
    width = method_of(method).width
    return ("loss",) * width.batches + ("models",) * width.fuses


def refuse_shrinking(number: int, name: str, before: int, after: int) -> None:
    """Raises SizeError where a stage makes anything smaller."""
    if after < before:
        raise SizeError(
            f"stage {number} shrinks {name} from {before} to {after}; give at least {before}, or leave it "
            "out",
            stage=number,
            before=before,
            after=after,
        )


def _refuse_nothing(number: int, stage: Stage) -> None:
    raise SizeError(
        f"stage {number} grows nothing: before it {stage} already; leave the stage out",
        stage=number,
    )


__all__ = ["OPTIONS", "Schedule", "Stage", "refuse_shrinking", "supplies"]
