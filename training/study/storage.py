"""Where the trials of a search are kept: an Optuna study in memory, in a journal or in SQLite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meristem.rewrite.errors import MeristemError, OutputError
from meristem.training.optional import needed
from meristem.training.study.trials import COMPLETE, FAILED, INFEASIBLE, Trial

NAME = "meristem search"
SQLITE = (".db", ".sqlite", ".sqlite3")


def open_study(path: str | Path | None, settings: Mapping[str, Any]) -> Any:
    """The study at ``path``: SQLite by the suffixes .db, .sqlite and .sqlite3, else a journal of lines.

    Trials that were running when the search was killed are closed, to be drawn again. One process at a time
    may search in a file.

    Raises OutputError where the file cannot be opened, MeristemError where it holds a search with other
    settings.
    """
    optuna = needed("optuna", "search", "a search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=NAME,
            directions=["minimize", "minimize"],
            storage=_storage(path),
            load_if_exists=True,
        )
    except Exception as error:
        # Whatever the storage raises on a path or a file that is no study.
        raise OutputError(
            f"no search can be kept in {path}: {type(error).__name__}: {error}"
        ) from error
    text = json.dumps(settings, sort_keys=True)
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", text)
    elif known != text:
        differ = _difference(json.loads(known), settings)
        raise MeristemError(
            f"{path} holds a search with other settings ({differ}); go on with the same ones, or give "
            "another file"
        )
    for t in study.get_trials(deepcopy=False):
        if t.state.name == "RUNNING":
            study.tell(t.number, state=optuna.trial.TrialState.FAIL)
    return study


def finished(study: Any) -> list[Trial]:
    """The trials that have an outcome, numbered in their order; those that were killed have none."""
    out: list[Trial] = []
    for t in study.get_trials(deepcopy=False):
        a = t.user_attrs
        # One that was killed has no state, or no values where it was killed while it was told.
        state = a.get("state")
        told = state is not None and (t.state.name == "COMPLETE") == (state == COMPLETE)
        if not (told and t.state.is_finished()):
            continue
        loss, flops = t.values if state == COMPLETE else (None, None)
        curve = tuple((float(c), float(x)) for c, x in a["curve"])
        out.append(
            Trial(
                len(out),
                state,
                a["schedule"],
                a["budget"],
                loss,
                flops,
                curve,
                a["reason"],
                a["seconds"],
            )
        )
    return out


def tell(study: Any, asked: Any, trial: Trial) -> None:
    """Keep the outcome of a trial. What is infeasible is pruned: it had no run."""
    optuna = needed("optuna", "search", "a search")
    attributes = {
        "schedule": dict(trial.schedule), "budget": trial.budget, "reason": trial.reason,
        "curve": [list(p) for p in trial.curve], "seconds": trial.seconds, "state": trial.state,
    }  # fmt: skip
    for name, value in attributes.items():
        asked.set_user_attr(name, value)
    states = optuna.trial.TrialState
    if trial.state == COMPLETE:
        study.tell(asked, [trial.loss, trial.flops])
    else:
        study.tell(asked, state={FAILED: states.FAIL, INFEASIBLE: states.PRUNED}[trial.state])


def _storage(path: str | Path | None) -> Any:
    if path is None:
        return None
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    storages = needed("optuna.storages", "search", "a search")
    if path.suffix in SQLITE:
        return storages.RDBStorage(f"sqlite:///{path.resolve()}")
    journal = needed("optuna.storages.journal", "search", "a search")
    return storages.JournalStorage(journal.JournalFileBackend(str(path)))


def _difference(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [n for n in {**known, **now} if known.get(n) != now.get(n)]
    return "; ".join(f"{n}: {known.get(n)!r}, not {now.get(n)!r}" for n in names)


__all__ = ["finished", "open_study", "tell"]
