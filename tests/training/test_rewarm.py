"""Learning rates after a growth, around torch's own schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as of_torch

from meristem.rewrite.errors import MeristemError
from meristem.training.rewarm import WSD, Overshoot, Ramp, Rewarmed, Scaled
from meristem.training.scheduler import GROWN_FROM, carry_scheduler

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: of_torch.CosineAnnealingLR(o, 100),
    "lambda": lambda o: of_torch.LambdaLR(o, WSD(100, 10, 20)),
    "step": lambda o: of_torch.StepLR(o, 7, 0.5),
    "chain": lambda o: of_torch.SequentialLR(
        o, [of_torch.LinearLR(o, 0.1, 1, 10), of_torch.CosineAnnealingLR(o, 90)], [10]
    ),
    "one cycle": lambda o: of_torch.OneCycleLR(o, 0.1, total_steps=200, cycle_momentum=False),
}


def _optimizer(tensor: bool = False) -> torch.optim.Optimizer:
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    rates = (torch.tensor(0.1), torch.tensor(0.1)) if tensor else (0.1, 0.1)
    groups = [{"params": m.parameters(), "lr": r} for m, r in zip((old, new), rates, strict=True)]
    return torch.optim.AdamW(groups, lr=0.1)


def _steps(scheduler: Any, count: int) -> list[list[float]]:
    out = []
    for _ in range(count):
        scheduler.optimizer.step()
        scheduler.step()
        out.append([float(g["lr"]) for g in scheduler.optimizer.param_groups])
    return out


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_old_groups_stay_on_their_schedule_and_new_ones_have_the_shape(kind: str) -> None:
    plain = SCHEDULERS[kind](_optimizer())
    inner = SCHEDULERS[kind](_optimizer())
    assert _steps(plain, 20) == _steps(inner, 20)
    at_growth = inner.optimizer.param_groups[1]["lr"]
    shape = Overshoot(total=60, ratio=1.3, steps=15)
    wrapped = Rewarmed(inner, shape, groups=[1])
    assert inner.optimizer.param_groups[1]["lr"] == at_growth
    ours, theirs = _steps(wrapped, 60), _steps(plain, 60)
    assert [a for a, _ in ours] == [a for a, _ in theirs]
    new = [b for _, b in ours]
    assert new == [shape(t, 0.0, at_growth) for t in range(1, 61)]
    assert max(new) == new[14] == pytest.approx(1.3 * at_growth)
    assert new[-1] == 0.0


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_all_groups_warm_up_and_come_back_to_the_schedule(kind: str) -> None:
    plain, inner = SCHEDULERS[kind](_optimizer()), SCHEDULERS[kind](_optimizer(tensor=True))
    wrapped = Rewarmed(inner, Ramp(steps=10, start=0.2))
    assert wrapped.get_last_lr()[0] == pytest.approx(0.2 * plain.optimizer.param_groups[0]["lr"])
    ours, theirs = _steps(wrapped, 25), _steps(plain, 25)
    for t, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        assert a == pytest.approx([x * (0.2 + 0.8 * min(t / 10, 1)) for x in b], rel=1e-6)


def test_it_goes_on_where_it_stopped() -> None:
    def wrapped(optimizer: Any) -> Rewarmed:
        inner = SCHEDULERS["cosine"](optimizer)
        return Rewarmed(Rewarmed(inner, Ramp(8)), Overshoot(30, steps=5), groups=[1])

    whole, first, second = (wrapped(_optimizer()) for _ in range(3))
    expected = _steps(whole, 20)
    assert expected[:7] == _steps(first, 7)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.get_last_lr() == first.get_last_lr()
    assert _steps(second, 13) == expected[7:]
    before = second.state_dict()
    other = Rewarmed(SCHEDULERS["cosine"](_optimizer()), Scaled(), groups=[1])
    for state in (other.state_dict(), {}, None):
        with pytest.raises(MeristemError, match="wrap as the run did"):
            second.load_state_dict(state)  # type: ignore[arg-type]
    assert second.state_dict() == before


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_it_goes_on_through_another_growth(kind: str) -> None:
    """With what takes schedulers through a growth; the optimizer has one group more then."""
    first = Rewarmed(SCHEDULERS[kind](_optimizer()), Overshoot(40, steps=5), groups=[1])
    _steps(first, 9)
    larger = _optimizer()
    for group, old in zip(larger.param_groups, first.optimizer.param_groups, strict=True):
        group |= {n: x for n, x in old.items() if n != "params"}
    new = nn.Parameter(torch.zeros(2))
    larger.add_param_group(larger.param_groups[0] | {"params": [new], GROWN_FROM: 0})
    second = Rewarmed(carry_scheduler(first, larger), Scaled(0.5), groups=[2])
    before = first.state_dict()
    ours = _steps(second, 8)
    assert first.state_dict() == before
    theirs = _steps(first, 8)
    assert [x[:2] for x in ours] == theirs
    assert [x[2] for x in ours] == pytest.approx([x[0] / 2 for x in theirs])


def test_a_scheduler_that_reads_a_loss() -> None:
    inner = of_torch.ReduceLROnPlateau(_optimizer(), factor=0.5, patience=0)
    wrapped = Rewarmed(inner, Scaled(0.1))
    assert wrapped.get_last_lr() == pytest.approx([0.01, 0.01])
    for loss in (1.0, 2.0):
        wrapped.step(loss)
    assert wrapped.get_last_lr() == pytest.approx([0.005, 0.005])


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
def test_warm_up_stable_decay(shape: str) -> None:
    factor = WSD(100, warmup=10, decay=20, floor=0.1, shape=shape)
    values = [factor(t) for t in range(101)]
    assert values[:10] == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert set(values[10:81]) == {1.0}
    assert all(a > b for a, b in pairwise(values[80:]))
    assert values[100] == factor(140) == pytest.approx(0.1)
    halfway = {"linear": 0.5, "sqrt": 1 - math.sqrt(0.5), "cosine": 0.5}[shape]
    assert values[90] == pytest.approx(0.1 + 0.9 * halfway)
    assert WSD(10)(500) == 1.0


def test_a_resumed_lambda_has_its_own_length() -> None:
    """LambdaLR saves what the function has as attributes."""
    first = of_torch.LambdaLR(_optimizer(), WSD(100, 10, 20))
    _steps(first, 30)
    second = of_torch.LambdaLR(_optimizer(), WSD(7))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert _steps(first, 65) == _steps(second, 65)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WSD(10, 6, 6), lambda: WSD(0), lambda: WSD(10, shape="round"), lambda: Overshoot(100),
        lambda: Ramp(0), lambda: Scaled(-1.0),
        lambda: Rewarmed(SCHEDULERS["step"](_optimizer()), Scaled(), groups=[2]),
        lambda: Rewarmed(SCHEDULERS["step"](_optimizer()), Scaled(), groups=[]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(MeristemError):
        make()
