"""Growth schedules: data both ways, checked before anything starts, walked through and resumed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError, PinnedDimension, SelectorError, SizeError
from meristem.training.progress import Progress
from meristem.training.schedule import Schedule, Stage, supplies
from meristem.training.triggers import AtStep, AtTokens, Every, Plateau, Proportional, Watch

STAGES = (
    Stage({"layers": 4}, AtStep(100), "stack", {"at": "spread"}, "deeper"),
    Stage({"mlp": "x2", "hidden": 48}, Plateau(2, 0.1)),
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 20), nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


@pytest.fixture(scope="module")
def model() -> Any:
    module = nn.Sequential(nn.Linear(4, 6), Block(), Block(), nn.Linear(6, 3)).eval()
    return meristem.trace(module, (torch.randn(2, 4),), None, None)


def test_a_schedule_is_data_both_ways() -> None:
    schedule = Schedule(STAGES, {"layers": 2, "hidden": 32}, Every(5))
    again = Schedule.from_json(schedule.to_json())
    assert again.data() == schedule.data()
    assert again.stages[0].arguments == {"method": "stack", "at": "spread"}
    assert again.stages[1].trigger is not schedule.stages[1].trigger
    assert str(again) == "layers=2, hidden=32 -> layers=4 -> mlp=x2, hidden=48"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"meristem_schedule": 9}',
        '{"meristem_schedule": 1}',
        '{"meristem_schedule": 1, "stages": null}',
        '{"meristem_schedule": 1, "stages": [3]}',
        '{"meristem_schedule": 1, "stages": [], "start": 3}',
        '{"meristem_schedule": 1, "stages": [{"sizes": {"mlp": 2}, "options": 3}]}',
        '{"meristem_schedule": 1, "stages": [{"trigger": null}]}',
        '{"meristem_schedule": 1, "stages": [{"sizes": {"mlp": 2}, "trigger": 3}]}',
    ],
)
def test_text_that_is_no_schedule(text: str) -> None:
    with pytest.raises(MeristemError, match="is no"):
        Schedule.from_json(text)


def test_what_is_missing_in_a_schedule_is_said() -> None:
    with pytest.raises(MeristemError, match='"stages" is None; give a list of stages'):
        Schedule.from_data({"meristem_schedule": 1, "stages": None})
    with pytest.raises(MeristemError, match=r"stage 2 is .*'b'.*; give at least its"):
        Schedule.from_data({"meristem_schedule": 1, "stages": [STAGES[0].data(), {"name": "b"}]})


def test_what_a_method_uses_besides_sizes() -> None:
    assert supplies("gradmax+stack") == supplies("learned") == ("loss",)
    assert supplies("fuse") == ("models",)
    assert supplies("preserve") == supplies("aki") == ()


def test_a_stage_that_shrinks_is_refused_with_the_sizes(model: Any) -> None:
    """Against the start, against the stage before, and against the model."""
    at = [AtStep(1), AtStep(2)]
    with pytest.raises(SizeError, match="stage 1 shrinks layers from 4 to 2; give at least 4"):
        Schedule([Stage({"layers": 2}, at[0])], {"layers": 4})
    with pytest.raises(SizeError, match="stage 2 shrinks mlp from 96 to 64"):
        Schedule([Stage({"mlp": "x3"}, at[0]), Stage({"mlp": 64}, at[1])], {"mlp": 32})
    with pytest.raises(SizeError, match=r"stage 1 shrinks mlp to x0.5"):
        Schedule([Stage({"mlp": "x0.5"}, at[0])])
    schedule = Schedule([Stage({"mlp": 40}, at[0]), Stage({"mlp@1": 24}, at[1])])
    with pytest.raises(SizeError, match=r"stage 2 shrinks mlp@1 from 40 to 24") as error:
        Progress(schedule, model)
    assert (error.value.before, error.value.after) == (40, 24)  # type: ignore[attr-defined]
    with pytest.raises(SizeError, match=r"stage 1 shrinks .* from 20 to 8"):
        Schedule([Stage({"mlp": 8}, at[0])]).validate(model)


def test_what_cannot_be_carried_out_does_not_begin(model: Any) -> None:
    at = AtStep(5)
    for sizes, error, word in (
        ({"mpl": 40}, SelectorError, "nearest: mlp"),
        ({"width@0": 300}, PinnedDimension, "cannot grow"),
        ({"mlp": 20}, SizeError, "stage 1 grows nothing"),
    ):
        with pytest.raises(error, match=word):
            Schedule([Stage(sizes, at)]).validate(model)
    # A block that an earlier stage makes has no name yet.
    Schedule([Stage({"layers": 4}, AtStep(1)), Stage({"mlp@4": 60}, at)]).validate(model)
    shared = AtStep(3)
    for make, word in (
        (lambda: Schedule([Stage({"mlp": 4})]), "stage 1 has no trigger"),
        (lambda: Schedule([Stage({}, at)]), "stage 1 grows nothing"),
        (lambda: Schedule([Stage({"mlp": "big"}, at)]), "is not a size"),
        (lambda: Schedule([Stage({"mlp": 4}, at, "stak")]), "is not known"),
        (lambda: Schedule([Stage({"mlp": 4}, at, options={"loss": 1})]), "no option of a stage"),
        (lambda: Schedule([Stage({"mlp": 4}, at), Stage({"mlp": 5}, AtStep(5))]), "not after stage 1"),
        (lambda: Schedule([Stage({"mlp": 4}, shared), Stage({"hidden": 5}, shared)]), "not after|shares"),
        (lambda: Schedule([Stage({"mlp": 4})] * 3, trigger=Proportional(30, 3)), "fires 2 times"),
        (lambda: Schedule([Stage({"mlp": 4}, at)], {"mlp": 4}), "stage 1 grows nothing"),
        (lambda: Schedule([Stage({"mlp": 4}, at)], {"mlp": 0}), "above 0"),
        (lambda: Schedule(["mlp"]), "give Stage"),  # type: ignore[list-item]
    ):  # fmt: skip
        with pytest.raises(MeristemError, match=word):
            make()


def test_the_stages_of_midas() -> None:
    stages = [Stage({"layers": n}) for n in (4, 6, 8)]
    schedule = Schedule.proportional(stages, 1000, alpha=1, start={"layers": 2})
    assert [s.trigger.at for s in schedule.stages] == [100, 300, 600]  # type: ignore[union-attr]
    tokens = Schedule.proportional(stages, 1e6, of="tokens")
    assert isinstance(tokens.stages[0].trigger, AtTokens)
    with pytest.raises(MeristemError, match="counts step"):
        Schedule.proportional(stages, 1000, of="hours")


def _walk(progress: Progress, start: int, steps: int) -> list[tuple[int, int]]:
    """(step, stage) of the growths, where a growth takes the loop one step."""
    grown = []
    for step in range(start, steps):
        if progress.update(step=step, loss=1.0 / min(step, 150)):
            progress.advance()
            grown.append((step, progress.index))
    return grown


def test_a_walk_through_a_schedule_goes_on_where_it_stopped() -> None:
    schedule = Schedule([*STAGES, Stage({"vocabulary": 9}), Stage({"positions": 9})], {}, Every(40))
    whole = Progress(schedule)
    growths = _walk(whole, 1, 300)
    assert [s for _, s in growths] == [1, 2, 3, 4]
    assert growths[0][0] == 100
    assert whole.done
    assert not whole.update()
    assert [row["stage"] for row in whole.log] == [1, 2, 3, 4]
    assert whole.log[0]["reason"] == "step 100: reached 100"
    for stop in (50, 100, 101, 153, 154, 200, 250):
        first, second = Progress(schedule), Progress(schedule)
        before = _walk(first, 1, stop)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + _walk(second, stop, 300) == growths
        assert second.state_dict() == whole.state_dict()


def test_a_growth_is_due_until_it_is_carried_out() -> None:
    """A run that is killed while it grows resumes before the growth, and grows."""
    schedule = Schedule(STAGES)
    progress = Progress(schedule)
    assert progress.needs == ("step",)
    with pytest.raises(MeristemError, match="no growth is due"):
        progress.advance()
    assert progress.update(step=100)
    assert progress.needs == ()
    assert progress.stage is not None
    assert progress.stage.name == "deeper"
    saved = progress.state_dict()
    assert progress.update(step=101)
    resumed = Progress(schedule)
    resumed.load_state_dict(json.loads(json.dumps(saved)))
    decision = resumed.update(step=101)
    assert decision
    assert decision.clock == {"step": 100}
    resumed.advance()
    assert resumed.needs == ("loss",)
    assert schedule.stages[0].trigger.state["fired"] == 0  # type: ignore[union-attr]


def test_a_state_of_another_schedule_changes_nothing() -> None:
    progress = Progress(Schedule(STAGES))
    progress.update(step=3)
    before = progress.state_dict()
    other = Progress(Schedule([Stage({"mlp": 4}, AtStep(3))]))
    for state, word in (
        (other.state_dict(), "another schedule"),
        ({**before, "index": 7}, "stage 7 of 2"),
        ({**before, "triggers": []}, "other triggers"),
        ({**before, "triggers": [before["triggers"][1]] * 2}, "this is"),
        ({**before, "triggers": None}, "other triggers"),
        ({**before, "due": {}}, "no decision of a trigger"),
        ({**before, "due": 3}, "no decision of a trigger"),
        ({**before, "due": {**AtStep(1).update(step=1).data(), "where": None}}, "no decision"),
        ({**before, "log": None}, "the log in the state"),
        ({}, "no state of a Progress"),
        (Watch(a=AtStep(1)).state_dict(), "no state of a Progress"),
    ):
        with pytest.raises(MeristemError, match=word):
            progress.load_state_dict(state)
        assert progress.state_dict() == before
