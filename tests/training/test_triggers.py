"""When to grow: what each trigger fires on, what it refuses, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from meristem.rewrite.errors import MeristemError
from meristem.training.curve import Curve, fit_curve
from meristem.training.triggers import (
    TRIGGERS,
    ActivationRank,
    AtFlops,
    AtStep,
    AtTokens,
    Every,
    GradMaxScore,
    Mixing,
    Plateau,
    Proportional,
    Score,
    Slope,
    Stacking,
    Trigger,
    Watch,
    activation_rank,
    mixing_time,
    proportional,
    stacking_tokens,
    trigger_from,
)

LARGER = Curve(2.0, 300.0, 0.25)
FULL = np.random.default_rng(0).standard_normal((64, 8))


def _flops(i: int) -> float:
    return 1e9 * 1.1**i


# Each trigger with updates on which it fires at least once.
CASES: dict[str, tuple[Callable[[], Trigger], Callable[[int], dict[str, Any]]]] = {
    "step": (lambda: AtStep(7), lambda i: {"step": i}),
    "tokens": (lambda: AtTokens(700), lambda i: {"step": i, "tokens": 100 * i}),
    "flops": (lambda: AtFlops(7.5e3), lambda i: {"flops": 1e3 * i}),
    "every": (lambda: Every(4), lambda i: {"step": i}),
    "proportional": (lambda: Proportional(30, 3, 2), lambda i: {"step": i}),
    "stacking": (lambda: Stacking(7e9, 6 * 7e9 * 2e12), lambda i: {"tokens": i * 10**9}),
    "mixing": (lambda: Mixing(30, 9, warmup=2, decay=3), lambda i: {"step": i}),
    "plateau": (lambda: Plateau(3, 0.05), lambda i: {"loss": 2 + math.exp(-i / 2)}),
    "slope": (
        lambda: Slope(LARGER, window=5, hold=2),
        lambda i: {"flops": _flops(i), "loss": 4.0 + 300 * _flops(i) ** -0.25},
    ),
    "rank": (
        lambda: ActivationRank(0.9),
        lambda i: {"activations": {"a": FULL * (np.arange(8) <= i), "b": FULL[:, :3]}},
    ),
    "gradmax": (lambda: GradMaxScore(0.5), lambda i: {"scores": {"a": Score((0.1 * i,), 1.0)}}),
}


def _fired(trigger: Trigger, seen: Callable[[int], dict[str, Any]], start: int = 1) -> list[int]:
    return [i for i in range(start, 31) if trigger.update(**seen(i))]


def test_every_trigger_is_tried() -> None:
    assert set(CASES) == set(TRIGGERS)


@pytest.mark.parametrize("kind", CASES)
def test_a_trigger_is_data_and_goes_on_where_it_stopped(kind: str) -> None:
    make, seen = CASES[kind]
    whole = _fired(make(), seen)
    assert whole
    first = trigger_from(json.loads(json.dumps(make().data())))
    before = [i for i in range(1, 6) if first.update(**seen(i))]
    second = make()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + _fired(second, seen, 6) == whole
    assert second.state_dict() != make().state_dict()
    second.reset()
    assert second.state_dict() == make().state_dict()


@pytest.mark.parametrize("kind", CASES)
def test_a_trigger_without_data_says_what_it_needs(kind: str) -> None:
    trigger = CASES[kind][0]()
    before = trigger.state_dict()
    with pytest.raises(
        MeristemError, match=rf"{kind!r} has no data: it needs {trigger.needs[0]}=, .*nothing"
    ):
        trigger.update()
    if trigger.needs != ("loss",):
        with pytest.raises(MeristemError, match=r"has no data.*was given loss"):
            trigger.update(loss=1.0)
    assert trigger.state_dict() == before


@pytest.mark.parametrize("kind", CASES)
def test_a_state_that_does_not_fit_changes_nothing(kind: str) -> None:
    make, seen = CASES[kind]
    trigger = make()
    trigger.update(**seen(1))
    good = trigger.state_dict()
    other = next(k for k in CASES if k != kind)
    wrong = [
        CASES[other][0]().state_dict(),
        {**good, "state": {}},
        {**good, "state": {**good["state"], "fired": "often"}},
        {**good, "state": {**good["state"], "clock": {"hours": 1}}},
        {**good, "trigger": {"kind": kind}},
        [],
    ]
    for state in wrong:
        with pytest.raises(MeristemError, match=r"this is (no|the) state of the trigger"):
            trigger.load_state_dict(state)  # type: ignore[arg-type]
        assert trigger.state_dict() == good


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan), "low", torch.ones(2)])
def test_a_loss_that_is_no_number(loss: Any) -> None:
    trigger = Plateau(2)
    trigger.update(step=4, loss=torch.tensor(2.0))
    before = trigger.state_dict()
    with pytest.raises(
        MeristemError, match=r"loss is (nan|inf) at step 5; the run has diverged|give one number"
    ):
        trigger.update(step=5, loss=loss)
    assert trigger.state_dict() == before


def test_counts_never_go_back() -> None:
    for trigger, count in ((AtStep(9), "step"), (AtTokens(9), "tokens"), (AtFlops(9.0), "flops")):
        trigger.update(**{count: 5})
        trigger.update(**{count: 5})
        with pytest.raises(MeristemError, match=f"{count} went back from 5 to 4.*load_state_dict"):
            trigger.update(**{count: 4})
        with pytest.raises(MeristemError, match=f"{count} is 'six'"):
            trigger.update(**{count: "six"})
    plateau = Plateau()
    plateau.update(step=5, loss=1.0)
    with pytest.raises(MeristemError, match="step went back"):
        plateau.update(step=3, loss=1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AtStep(0), lambda: AtStep(1.5), lambda: AtFlops(-1), lambda: Every(0),
        lambda: Every(3, "epochs"), lambda: Proportional(3, 9), lambda: Plateau(0),
        lambda: Plateau(window=0), lambda: Slope(LARGER, window=2),
        lambda: Slope(None), lambda: Slope({"limit": 1.0}), lambda: Curve(1.0, -1.0, 0.5),
        lambda: ActivationRank(1.0), lambda: GradMaxScore(units=0), lambda: Watch(),
        lambda: trigger_from({"kind": "moon"}), lambda: trigger_from({"kind": "step", "when": 3}),
        lambda: trigger_from({"kind": "step"}), lambda: trigger_from("step"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(make: Callable[[], Any]) -> None:
    with pytest.raises(MeristemError):
        make()


# -- one by one ------------------------------------------------------------------------------------


def test_once_at_a_count() -> None:
    assert _fired(AtStep(7), lambda i: {"step": i}) == [7]
    assert _fired(AtTokens(700), lambda i: {"tokens": 300 * i}) == [3]
    assert AtTokens(1e9).data() == {"kind": "tokens", "at": 10**9}
    decision = AtFlops(8.0).update(flops=2.0)
    assert not decision
    assert decision.signal == 0.25
    assert decision.clock == {"flops": 2.0}


def test_periods_that_are_passed_at_once_fire_once() -> None:
    assert _fired(Every(10, start=5), lambda i: {"step": i}) == [15, 25]
    assert _fired(Every(2), lambda i: {"step": 9 * i})[:3] == [1, 2, 3]


def test_the_stages_of_prop() -> None:
    """T_i = i^alpha / sum_j j^alpha T by hand: shares of 1, 2, 3 and of 1, 4, 9."""
    assert proportional(600, 3, 1) == [100, 300]
    assert proportional(1400, 3, 2) == [100, 500]
    assert proportional(300, 3, 0) == [100, 200]
    assert _fired(Proportional(30, 3, 1), lambda i: {"step": i}) == [5, 15]
    late = Proportional(30, 3, 1)
    assert [bool(late.update(step=s)) for s in (20, 21, 22)] == [True, True, False]


@pytest.mark.parametrize(
    ("parameters", "tokens", "said"),
    [(8e9, 15e12, 6.58e9), (7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)],
)
def test_the_formula_for_stacking_gives_the_authors_table(
    parameters: float, tokens: float, said: float
) -> None:
    assert stacking_tokens(parameters, 6 * parameters * tokens) == pytest.approx(said, rel=1e-3)


def test_the_formula_for_stacking_is_refused_where_it_asks_for_more_than_there_is() -> None:
    with pytest.raises(MeristemError, match=r"tokens for the small model, but .* in all"):
        Stacking(1e6, 6 * 1e6 * 1e8)


def test_the_mixing_time_of_a_pilot() -> None:
    at = [0, 10, 20, 30, 40, 50, 60]
    scratch = [5.0, 4.0, 3.5, 3.3, 3.2, 3.1, 3.0]
    grown = [5.0, 4.5, 4.2, 3.31, 3.4, 3.11, 3.01]
    assert mixing_time(at, grown, scratch, growth=20) == 30
    with pytest.raises(MeristemError, match="do not agree at the end"):
        mixing_time(at, [6.0] * 7, scratch, growth=20)
    with pytest.raises(MeristemError, match="as many of each"):
        mixing_time(at, grown[1:], scratch, growth=20)
    assert _fired(Mixing(50, 30), lambda i: {"step": i}) == [20]


@pytest.mark.parametrize(
    "more", [{"mixing": 30}, {"mixing": 4, "decay": 5}, {"mixing": 25, "warmup": 6}]
)
def test_mixing_needs_the_stable_phase(more: dict[str, int]) -> None:
    with pytest.raises(MeristemError, match="is not in the stable phase"):
        Mixing(30, **more)


def test_a_plateau() -> None:
    falling, flat = [1 / (i + 1) for i in range(20)], [0.05] * 4
    trigger = Plateau(3, 0.01)
    fired = [i for i, x in enumerate(falling + flat) if trigger.update(loss=x)]
    assert fired == [22]
    noisy = Plateau(2, 0.01, window=4)
    rng = np.random.default_rng(0)
    assert not [
        i for i in range(60) if noisy.update(loss=3 - i / 30 + 0.02 * rng.standard_normal())
    ]
    assert [i for i in range(40) if noisy.update(loss=1 + 0.02 * rng.standard_normal())]
    rising = Plateau(1, 0.01, relative=False)
    assert [bool(rising.update(loss=x)) for x in (-1.0, -2.0, -1.5)] == [False, False, True]


def test_a_curve_is_found_again() -> None:
    flops = np.geomspace(1e9, 1e13, 25)
    curve = fit_curve(flops, [LARGER.loss(c) for c in flops])
    assert curve.limit == pytest.approx(2.0, abs=1e-3)
    assert curve.exponent == pytest.approx(0.25, rel=1e-3)
    step = LARGER.flops(3.0) * 1e-6
    finite_difference = (LARGER.loss(LARGER.flops(3.0) + step) - 3.0) / step
    assert LARGER.slope(3.0) == pytest.approx(finite_difference, rel=1e-4)
    assert LARGER.slope(1.9) == 0.0
    for bad in (([1, 2, 3], [3, 2, 1]), ([1, 2, 3, 4], [1, 2, 3, 4]), ([0, 1, 2, 3], [4, 3, 2, 1])):
        with pytest.raises(MeristemError, match="fit_curve"):
            fit_curve(*bad)


def test_slopes_cross_where_the_curves_say() -> None:
    """A small model that saturates at 2.5: its slope falls below the larger one's at a known loss."""
    small = Curve(2.5, 400.0, 0.3)
    flops = np.geomspace(1e8, 1e14, 200)
    losses = [small.loss(c) for c in flops]
    crossing = next(i for i, x in enumerate(losses) if LARGER.slope(x) < small.slope(x))
    trigger = Slope(LARGER, window=8, hold=1)
    fired = next(
        i
        for i, (c, x) in enumerate(zip(flops, losses, strict=True))
        if trigger.update(flops=c, loss=x)
    )
    assert crossing <= fired <= crossing + 10
    never = Slope(Curve(2.6, 300.0, 0.25), window=8)  # the larger model is no better
    assert not any(never.update(flops=c, loss=x) for c, x in zip(flops, losses, strict=True))
    with pytest.raises(MeristemError, match="two losses at"):
        never.update(flops=flops[-1], loss=2.5)


def test_the_rank_says_where() -> None:
    rng = np.random.default_rng(1)
    full = torch.from_numpy(rng.standard_normal((4, 25, 10)))
    low = full[..., :4] @ torch.from_numpy(rng.standard_normal((4, 10)))
    assert activation_rank(full) == 10
    assert activation_rank(low) == 4
    assert activation_rank(1e-3 * full) == 0
    decision = ActivationRank(0.75).update(
        activations={"low": low, "full": full, "near": full[..., :8]}
    )
    assert decision.where == ("full", "near")
    assert decision.measured["phi"]["low"] == 0.4
    assert decision.measured["surplus"] == {"full": 2, "near": 2}
    for bad, word in (
        (full[0, :5], "as many rows"),
        (full[0] * math.nan, "not finite"),
        ({}, "has no data"),
    ):
        with pytest.raises(MeristemError, match=word):
            ActivationRank().update(activations={"x": bad} if len(bad) else bad)


def test_the_score_says_where() -> None:
    scores = {"a": Score((4.0, 1.0), 10.0), "b": Score((3.0, 2.9), 4.0), "c": Score((1.0,), 0.0)}
    decision = GradMaxScore(0.45, units=2).update(scores=scores)
    assert decision.where == ("c", "b", "a")
    assert decision.measured["ratio"]["b"] == pytest.approx(5.9 / 4)
    assert GradMaxScore(0.45).update(scores={"a": scores["a"]}).fire is False
    json.dumps(decision.data(), allow_nan=False)
    with pytest.raises(MeristemError, match="the score of a is nan"):
        GradMaxScore().update(scores={"a": Score((math.nan,), 1.0)})
    with pytest.raises(MeristemError, match=r"what training\.growth_scores"):
        GradMaxScore().update(scores={"a": 3.0})


def test_signals_are_watched_without_growth() -> None:
    watch = Watch(loss=Plateau(1), layer=ActivationRank())
    assert set(watch.update(step=1, loss=2.0)) == {"loss"}
    watch.update(step=2, loss=1.0)
    assert watch.silent == ["layer"]
    assert set(watch.update(step=3, loss=1.0, activations={"a": FULL})) == {"loss", "layer"}
    assert [row["step"] for row in watch.log if row["fire"]] == [3, 3]
    with pytest.raises(MeristemError, match="given los=, which no trigger reads; give step"):
        watch.update(step=4, los=1.0)
    assert watch.log[-1]["step"] == 3
    again = Watch(loss=Plateau(1), layer=ActivationRank())
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert again.state_dict() == watch.state_dict()
    with pytest.raises(MeristemError, match="the state of the triggers"):
        Watch(loss=Plateau(1)).load_state_dict(watch.state_dict())
    other = Watch(loss=Plateau(1), layer=ActivationRank(0.5))
    with pytest.raises(MeristemError, match="not of"):
        other.load_state_dict(watch.state_dict())
    assert other.triggers["loss"].state_dict() == Plateau(1).state_dict()
