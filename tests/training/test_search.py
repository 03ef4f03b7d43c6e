"""The search for growth schedules, with a run function that costs nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meristem.rewrite.errors import MeristemError, OutputError, RuntimeUnavailable, SizeError
from meristem.training.schedule import Schedule
from meristem.training.study.picture import draw
from meristem.training.study.search import search
from meristem.training.study.space import Space
from meristem.training.study.trials import COMPLETE, FAILED, INFEASIBLE, Found, Trial
from tests.training.cheap_run import broken, last, run

SPACE = Space({"layers": 8, "hidden": 16}, {"layers": (2, 4)}, ("preserve", "lemon"), growths=2)
BUDGET = 1e10


def _outcomes(found: Found) -> list[Trial]:
    return [replace(t, seconds=0.0) for t in found.trials]


@pytest.fixture(scope="module")
def found() -> Found:
    return search(run, SPACE, BUDGET, trials=14, seed=3)


def test_the_front_is_what_nothing_beats(found: Found) -> None:
    ran = [t for t in found.trials if t.state != INFEASIBLE]
    assert len(ran) == 14
    for t in found.complete:
        beaten = [o for o in found.complete if o.loss < t.loss and o.flops <= t.flops]
        assert (t in found.front) == (not beaten and all(
            o is t or (o.loss, o.flops) != (t.loss, t.flops) or o.number > t.number for o in found.complete
        ))  # fmt: skip
    grown = [t for t in found.front if not t.scratch]
    assert grown
    for t in grown:
        schedule = Schedule.from_data(t.schedule)
        reached: dict[str, Any] = dict(schedule.start)
        for stage in schedule.stages:
            reached |= stage.sizes
        assert reached == SPACE.target
        assert t.flops <= 1.1 * t.budget <= 1.1 * BUDGET
        assert list(run(schedule, t.budget))[-1] == (t.loss, t.flops)


def test_runs_from_scratch_come_first_and_savings_are_against_them(found: Found) -> None:
    scratch = found.trials[:3]
    assert all(t.scratch for t in scratch)
    assert not any(t.scratch for t in found.trials[3:])
    assert [t.budget / BUDGET for t in scratch] == [1.0, 0.25, 0.5]
    assert [found.saved(t) for t in scratch] == pytest.approx([0, 0, 0])
    whole, least, half = scratch
    between = replace(found.front[0], loss=(half.loss + whole.loss) / 2, flops=0.3 * BUDGET)
    # Half way between the losses is half way between the logarithms of the FLOPs.
    assert found.saved(between) == pytest.approx(1 - 0.3 / math.sqrt(0.5))
    assert found.saved(replace(between, loss=whole.loss / 2)) is None
    assert found.saved(replace(between, loss=least.loss * 2)) is None


def test_what_fails_and_what_cannot_run_has_its_reason(found: Found) -> None:
    failed = [t for t in found.trials if t.state == FAILED]
    assert failed
    assert {t.reason for t in failed} == {"SizeError: lemon grows no such model"}
    assert all(any(s["method"] == "lemon" for s in t.schedule["stages"]) for t in failed)
    assert all(t.reason for t in found.trials if t.state != COMPLETE)

    def check(schedule: Schedule) -> None:
        if any(s.method == "lemon" for s in schedule.stages):
            raise SizeError("the proof says no")

    never = search(run, SPACE, BUDGET, trials=14, seed=3, check=check)
    assert not [t for t in never.trials if t.state == FAILED]
    pruned = [t for t in never.trials if t.reason == "the proof says no"]
    assert pruned
    assert all(t.state == INFEASIBLE and t.flops is None and not t.curve for t in pruned)


@pytest.mark.parametrize("suffix", [".journal", pytest.param(".db", marks=pytest.mark.full)])
def test_a_search_that_is_killed_goes_on(suffix: str, found: Found, tmp_path: Path) -> None:
    """The trial that was cut off is drawn again; the rest is that of the undisturbed search."""
    path = tmp_path / f"trials{suffix}"
    calls = []

    def killed(schedule: Schedule, budget: float) -> Any:
        calls.append(1)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt
        return run(schedule, budget)

    for trials in (6, 12):
        with pytest.raises(KeyboardInterrupt):
            search(killed, SPACE, BUDGET, trials=trials, seed=3, storage=path)
    again = search(run, SPACE, BUDGET, trials=14, seed=3, storage=path)
    assert _outcomes(again) == _outcomes(found)
    assert len(calls) == 9
    whole = search(broken, SPACE, BUDGET, trials=14, seed=3, storage=path)
    assert _outcomes(whole) == _outcomes(again)
    for change in ({"seed": 4}, {"budget": 2 * BUDGET}, {"space": replace(SPACE, growths=1)}):
        options = {"space": SPACE, "budget": BUDGET, "seed": 3} | change
        with pytest.raises(MeristemError, match="a search with other settings"):
            search(run, trials=14, storage=path, **options)


def test_the_seed_is_the_search(found: Found) -> None:
    again = search(run, SPACE, BUDGET, trials=14, seed=3)
    assert _outcomes(again) == _outcomes(found)
    other = search(last, SPACE, BUDGET, trials=6, seed=4)
    assert [t.schedule for t in other.trials[3:]] != [t.schedule for t in found.trials[3:9]]
    assert all(len(t.curve) == 1 for t in other.complete)


def test_a_space_of_few_schedules_is_tried_out() -> None:
    small = Space({"layers": 2}, {"layers": (1,)}, growths=1, when=(0.5, 0.5), spend=1.0)
    found = search(run, small, BUDGET, trials=6)
    assert len(found.complete) == 2
    assert {t.reason.rstrip("0123456789") for t in found.trials if t.state == INFEASIBLE} == {
        "the same as trial ",
        'stage 1 grows nothing: give sizes, as {"mlp": "x2"}',
    }


@pytest.mark.parametrize(
    ("result", "word"),
    [
        (broken, "ZeroDivisionError: no data"),
        (lambda s, b: (math.nan, b), "the loss is nan"),
        (lambda s, b: (1.0, 0), "spent 0.0 FLOPs"),
        (lambda s, b: 1.0, r"gave 1.0; give \(loss, flops\)"),
        (lambda s, b: iter(()), "yielded nothing"),
        (lambda s, b: (1.0, 1.2 * b), "it spent 6e"),
    ],
)
def test_a_run_that_always_fails_ends_the_search(result: Callable[..., Any], word: str) -> None:
    with pytest.raises(MeristemError, match=rf"every run so far has failed, 3 of 3.*{word}"):
        search(result, SPACE, BUDGET, trials=10)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Space({}), "needs a target"),
        (lambda: Space({"mlp": 0}), "the target of mlp"),
        (lambda: Space({"mlp": 8}, {"mlp": (16,)}), "starts at 16, above its target of 8"),
        (lambda: Space({"mlp": 8}, {"heads": (2,)}), "there is no target"),
        (lambda: Space({"mlp": 8}, {"mlp": (8,)}), "nothing can grow"),
        (lambda: Space({"mlp": 8}, methods=("stak",)), "is not known"),
        (lambda: Space({"mlp": 8}, methods=()), "at least one method"),
        (lambda: Space({"mlp": 8}, when=(0.0, 0.5)), "between 0 and 1"),
        (lambda: Space({"mlp": 8}, spend=0.0), "least share"),
        (lambda: search(run, SPACE, -1.0), "the budget"),
        (lambda: search(run, SPACE, BUDGET, trials=0), "the number of trials"),
    ],
)
def test_a_search_that_makes_no_sense(make: Callable[[], Any], word: str) -> None:
    with pytest.raises(MeristemError, match=word):
        make()


def test_what_it_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for module in ("optuna", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=r'needs optuna.*pip install "meristem\[search\]"'):
        search(run, SPACE, BUDGET)
    with pytest.raises(RuntimeUnavailable, match="needs matplotlib"):
        draw(Found([]), tmp_path / "front.png")


def test_what_cannot_be_kept_or_drawn(found: Found, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for name in ("file/trials.journal", "file/trials.db", "file"):
        with pytest.raises(OutputError, match="no search can be kept in"):
            search(run, SPACE, BUDGET, storage=tmp_path / name)
    with pytest.raises(OutputError, match="cannot be drawn"):
        draw(found, tmp_path / "file" / "front.png")


def test_the_picture_and_the_data(found: Found, tmp_path: Path) -> None:
    picture = draw(found, tmp_path / "front.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    draw(Found([]), tmp_path / "empty.png")
    data = json.loads(json.dumps(found.data(), allow_nan=False))
    assert data["front"] == [t.number for t in found.front]
    assert len(data["trials"]) == len(found.trials)
    assert Schedule.from_data(data["trials"][0]["schedule"]).start == SPACE.target
