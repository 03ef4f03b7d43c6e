"""Schedules that only the proof can refuse, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

import meristem
from meristem.feasible import feasible
from meristem.rewrite.errors import MeristemError
from meristem.training.schedule import Schedule, Stage
from meristem.training.triggers import AtStep

BUILT: list[int] = []


def build(start: Mapping[str, int]) -> meristem.Model:
    BUILT.append(start["mlp"])
    n = start["mlp"]
    module = nn.Sequential(nn.Linear(4, n), nn.Tanh(), nn.Linear(n, 2)).eval()
    return meristem.trace(module, (torch.randn(2, 4),), None, None)


def schedule(*sizes: int, method: str = "copy") -> Schedule:
    stages = [Stage({"mlp": n}, AtStep(i), method) for i, n in enumerate(sizes[1:], 1)]
    return Schedule(stages, {"mlp": sizes[0]})


def test_every_stage_is_asked_of_the_proof() -> None:
    check = feasible(build)
    check(schedule(4))
    check(schedule(4, 8, 16))
    check(schedule(4, 6, method="preserve"))
    with pytest.raises(MeristemError, match="12"):
        check(schedule(4, 8, 12))
    with pytest.raises(MeristemError, match="nothing in this model"):
        check(Schedule([Stage({"heads": 2}, AtStep(1))], {"mlp": 4}))
    assert BUILT == [4]


def test_a_function_that_makes_no_model() -> None:
    def fails(start: Mapping[str, int]) -> meristem.Model:
        raise KeyError("width")

    with pytest.raises(MeristemError, match=r"no model of the sizes {'mlp': 4} was made: KeyError"):
        feasible(fails)(schedule(4, 8))
    with pytest.raises(MeristemError, match="returned a Linear; give a traced model"):
        feasible(lambda start: nn.Linear(2, 2))(schedule(4, 8))  # type: ignore[arg-type, return-value]
