"""Trying growth schedules on short runs, with Optuna choosing the next one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from meristem.rewrite.errors import MeristemError
from meristem.training.optional import needed
from meristem.training.schedule import Schedule
from meristem.training.study.space import Space
from meristem.training.study.storage import finished, open_study, tell
from meristem.training.study.trials import COMPLETE, FAILED, INFEASIBLE, Found, Trial
from meristem.training.triggers.base import positive

# A run may end with the step that passes its budget, and no later.
OVER = 1.1
# So many runs that fail and none that does not: the run function is at fault, not the schedules.
HOPELESS = 3
# Trials that are drawn at random before Optuna's model of the results is used.
RANDOM = 8

Run = Callable[[Schedule, float], Any]


def search(
    run: Run,
    space: Space,
    budget: float,
    *,
    trials: int = 20,
    seed: int = 0,
    storage: str | Path | None = None,
    check: Callable[[Schedule], Any] | None = None,
    told: Callable[[Trial], None] | None = None,
) -> Found:
    """Try schedules of ``space`` in ``trials`` runs of at most ``budget`` FLOPs.

    ``run(schedule, budget)`` makes a model of ``schedule.start``, trains it, carries out the stages, and
    returns (loss, flops); or it is a generator that yields such pairs on the way, of which the last is the
    result. FLOPs count everything, also the small model (``training.Ledger``). Both are minimised, by
    Optuna's TPE; runs from scratch come first. The same seed and run give the same trials, and a search in
    a ``storage`` file goes on where it was stopped; ``trials`` may be raised then.

    A schedule that ``check`` refuses with a MeristemError is infeasible and has no run. A run that raises,
    whose loss is not finite or that spends more than its budget has failed, and the result says why.
    ``told`` hears of each trial.

    Raises MeristemError where every run fails, RuntimeUnavailable without Optuna, and what ``open_study``
    raises.
    """
    positive(budget, "the budget")
    positive(trials, "the number of trials", whole=True)
    optuna = needed("optuna", "search", "a search")
    settings = {"budget": float(budget), "seed": seed, **space.data()}
    study = open_study(storage, settings)
    baselines = space.baselines(budget)
    done = finished(study)
    while len(ran := [t for t in done if t.state != INFEASIBLE]) < trials:
        _refuse_hopeless(ran)
        if len(done) >= 3 * trials + 20:
            break  # a space of few schedules is tried out
        # Each trial has a seed of its own, so that one which is resumed draws the same.
        study.sampler = optuna.samplers.TPESampler(
            seed=_seed(seed, len(done)), n_startup_trials=RANDOM
        )
        asked = study.ask()
        if len(done) < len(baselines):
            made: Any = baselines[len(done)]
        else:
            made = _drawn(space, asked, budget)
        trial = _try(made, run, budget, check, done)
        tell(study, asked, trial)
        done = finished(study)
        if told is not None:
            told(done[-1])
    _refuse_hopeless(ran, least=1)
    return Found(done, settings)


def _drawn(space: Space, asked: Any, budget: float) -> tuple[Schedule, float] | MeristemError:
    """What Optuna draws, or why it is no schedule."""
    try:
        return space.suggest(asked, budget)
    except MeristemError as error:
        return error


def _try(made: Any, run: Run, budget: float, check: Any, done: list[Trial]) -> Trial:
    """The outcome of one schedule."""
    if isinstance(made, MeristemError):
        return Trial(len(done), INFEASIBLE, {}, budget, reason=str(made))
    schedule, own = made
    trial = Trial(len(done), INFEASIBLE, schedule.data(), own)
    for t in done:
        if (t.schedule, t.budget) == (trial.schedule, trial.budget):
            return replace(trial, reason=f"the same as trial {t.number}")
    if check is not None:
        try:
            check(schedule)
        except MeristemError as error:
            return replace(trial, reason=str(error))
    began = time.monotonic()
    curve: list[tuple[float, float]] = []
    try:
        for loss, flops in _results(run(schedule, own)):
            curve.append((flops, loss))
            if flops > OVER * own:
                raise MeristemError(f"it spent {flops:.4g} FLOPs of {own:.4g}")
    except Exception as error:
        # A search goes on past a run that fails, and its report says how each failed.
        reason = f"{type(error).__name__}: {error}"
        return replace(
            trial, state=FAILED, reason=reason, curve=tuple(curve), seconds=_since(began)
        )
    flops, loss = curve[-1]
    return replace(
        trial, state=COMPLETE, loss=loss, flops=flops, curve=tuple(curve), seconds=_since(began)
    )


def _results(result: Any) -> Iterator[tuple[float, float]]:
    """Pairs (loss, FLOPs) that a run returned or yields.

    Raises MeristemError where there is none, or it is no pair of finite numbers.
    """
    count = 0
    for pair in result if isinstance(result, Iterator) else (result,):
        try:
            loss, flops = (float(x) for x in pair)
        except (TypeError, ValueError, RuntimeError):
            raise MeristemError(f"the run gave {pair!r}; give (loss, flops)") from None
        if not math.isfinite(loss):
            raise MeristemError(f"the loss is {loss}")
        if not (math.isfinite(flops) and flops > 0):
            raise MeristemError(f"the run says that it spent {flops} FLOPs; count them")
        count += 1
        yield loss, flops
    if not count:
        raise MeristemError("the run yielded nothing; yield (loss, flops)")


def _refuse_hopeless(ran: list[Trial], least: int = HOPELESS) -> None:
    if len(ran) >= least and all(t.state == FAILED for t in ran):
        raise MeristemError(
            f"every run so far has failed, {len(ran)} of {len(ran)}; the last: {ran[-1].reason}",
            reasons=[t.reason for t in ran],
        )
    if least == 1 and not ran:
        raise MeristemError("no schedule could be run: all were infeasible")


def _seed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**32


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


__all__ = ["Run", "search"]
