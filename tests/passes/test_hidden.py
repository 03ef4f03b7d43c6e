"""Hidden size: every norm keeps its statistics, and a stream that is an interface stays one."""

import pytest

from meristem.rewrite.errors import PinnedDimension, SizeError
from tests.passes.cases import LIMIT, grow_and_measure, reached, sizes_of, traced


@pytest.mark.parametrize(("target", "size"), [(24, 24), (25, 25), ("+8", 32), ("x1.5", 36)])
def test_targets(target, size):
    assert reached("hidden", 24, target) == size


def test_a_size_below_todays_is_refused():
    with pytest.raises(SizeError, match="give at least 24"):
        reached("hidden", 24, "x0.9")


@pytest.mark.parametrize(
    ("name", "strategies"),
    [
        ("llama", {"zero"}),  # RMS norms: new coordinates are zero, gains and epsilons compensate
        ("gpt2", {"mean"}),  # layer norms before the branches: new coordinates are the mean
        ("torch_encoder_postnorm", {"statistics"}),  # norms write the stream themselves
    ],
)
def test_each_kind_of_norm(name, strategies):
    grown, error = grow_and_measure(name, {"hidden": "+5"})
    assert error <= LIMIT
    assert {s for c in grown.plan.changes for s in c.strategies} == strategies
    model, _ = traced(name)
    assert sizes_of(grown, "hidden") == {n + 5 for n in sizes_of(model, "hidden")}


def test_weights_alone_keep_the_norms_exact():
    grown, error = grow_and_measure("llama", {"hidden": "+8"}, compensate="weights")
    assert error <= LIMIT
    assert grown.plan.constants == []


def test_an_interface_pins_the_stream():
    model, inputs = traced("torch_encoder_bare")
    with pytest.raises(PinnedDimension, match='boundary="crop"') as caught:
        grow_and_measure("torch_encoder_bare", {"hidden": "+4"})
    assert caught.value.selector == "hidden"
    grown, error = grow_and_measure("torch_encoder_bare", {"hidden": "+4"}, boundary="crop")
    assert error <= LIMIT
    assert grown.plan.added
    assert inputs[0].shape[-1] == min(sizes_of(model, "hidden"))
