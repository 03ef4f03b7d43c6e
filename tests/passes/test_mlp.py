"""MLP width: every way to say a size, and a growth in float64."""

import pytest

import meristem
from meristem.passes.mlp import MLP
from meristem.rewrite.errors import SizeError
from tests.e2e.measure import algebra_error
from tests.passes.cases import LIMIT, grow_and_measure, reached, sizes_of, traced


@pytest.mark.parametrize(
    ("target", "size"),
    [
        (40, 40),
        (64, 64),
        ("64", 64),
        ("+8", 48),
        ("+0", 40),
        ("x2", 80),
        ("x1.5", 60),
        ("x1.01", 40),
    ],
)
def test_targets(target, size):
    assert reached("mlp", 40, target) == size


@pytest.mark.parametrize("target", [39, "12", "x0.5"])
def test_a_size_below_todays_is_refused(target):
    with pytest.raises(
        SizeError, match=r"is 40 today and cannot become .*; give at least 40"
    ) as caught:
        reached("mlp", 40, target)
    assert caught.value.size == 40


def test_experts_are_mlps_too():
    assert MLP.kinds == ("mlp", "expert_mlp")
    assert reached("expert_mlp", 24, "+3") == 27


def test_a_plain_mlp_grows():
    grown, error = grow_and_measure("gpt2", {"mlp": "+3"})
    assert error <= LIMIT
    assert sizes_of(grown, "mlp") == {43}


def test_one_block_alone_grows():
    model, _ = traced("gpt2")
    first, second = [d for d in model.dimensions if d.kind == "mlp"]
    grown, error = grow_and_measure("gpt2", {"mlp": 44, second.name: 52})
    assert error <= LIMIT
    assert [grown[d.name].size for d in (first, second)] == [44, 52]


def test_a_grown_model_grows_again():
    model, inputs = traced("gpt2")
    once = meristem.grow(model, {"mlp": 44})
    twice = meristem.grow(once, {"mlp": 50})
    assert sizes_of(twice, "mlp") == {50}
    assert [d.name for d in twice.dimensions] == [d.name for d in model.dimensions]
    assert algebra_error(once, twice, *inputs) <= LIMIT
