"""Plans: pure data that reads back as it was written, and that binds only where the proof agrees."""

import json

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import CarrierError, SizeError
from meristem.rewrite.plan import Plan


class Perceptron(nn.Module):
    """One hidden layer of ``width``."""

    def __init__(self, width=12):
        super().__init__()
        self.up, self.down = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def traced(width=12):
    return meristem.trace(Perceptron(width), (torch.ones(2, 5),))


def tampered(plan, change):
    data = json.loads(plan.to_json())
    change(data)
    return Plan.from_json(json.dumps(data))


def test_a_plan_reads_back_as_it_was_written():
    plan = meristem.plan(traced(), {"mlp": 18})
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.explain() == plan.explain()


def test_json_that_is_no_plan():
    for text, why in (
        ("{}", "it has no meristem_plan"),
        ("[1]", "it has no meristem_plan"),
        ('{"meristem_plan": 0}', "another version"),
        ("{", "this is not a meristem plan"),
    ):
        with pytest.raises(CarrierError, match=why):
            Plan.from_json(text)


def test_a_plan_that_was_read_back_grows_the_same_model():
    model = traced()
    grown = meristem.grow(model, {"mlp": 18})
    again = meristem.grow(model, Plan.from_json(grown.plan.to_json()))
    first, second = grown.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)


def without_recipes(data):
    data["weights"] = {}


def with_another_size(data):
    data["weights"]["up.weight"]["axes"][0] = ["atom", 12, 24]


def with_a_recipe_too_many(data):
    data["sizes"], data["changes"] = {"mlp": 12}, []


@pytest.mark.parametrize("change", [without_recipes, with_another_size, with_a_recipe_too_many])
def test_recipes_that_are_not_those_of_the_proof(change):
    model = traced()
    plan = tampered(meristem.plan(model, {"mlp": 18}), change)
    with pytest.raises(CarrierError, match=r"does not fit this model: .* by the proof") as caught:
        meristem.grow(model, plan)
    assert "up.weight" in caught.value.weights


@pytest.mark.parametrize("what", [Perceptron(), "x.onnx", None])
def test_what_is_no_model_says_how_to_make_one(what):
    for verb in (meristem.plan, meristem.grow):
        with pytest.raises(
            CarrierError, match=r"meristem\.trace\(module, args\) makes .* of a file"
        ):
            verb(what, {"mlp": 18})
    plan = meristem.plan(traced(), {"mlp": 18})
    with pytest.raises(CarrierError, match=type(what).__name__):
        meristem.grow(what, plan)


def test_arguments_that_nothing_heeds():
    model = traced()
    plan = meristem.plan(model, {"mlp": 18})
    for what in ({"mlp": 18}, plan):
        with pytest.raises(TypeError, match=r"takes no statistics=; .* seed=, given=$"):
            meristem.grow(model, what, statistics={})
        with pytest.raises(
            SizeError, match=r"says where new layers go, and the request names none"
        ):
            meristem.grow(model, what, at=[7])


def test_a_plan_of_another_size_of_the_same_class():
    plan = meristem.plan(traced(12), {"mlp": 18})
    with pytest.raises(
        CarrierError, match=r"\(3, 12\) to \(3, 18\) in the plan and from \(3, 15\)"
    ):
        meristem.grow(traced(15), plan)
