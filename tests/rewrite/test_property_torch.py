"""Random small torch modules under random growths, through the real carrier, in float64."""

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from meristem.rewrite.errors import MeristemError
from tests.rewrite.random_modules import BLOCKS, Stack
from tests.rewrite.test_property import calm
from tests.rules.torch_growing import check_evaluation, grow, traced

# At least this share of the random growths must be accepted.
ACCEPTED = 0.7


@st.composite
def stacks(draw, most=3):
    names = draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=most))
    return Stack(
        tuple(names), draw(st.sampled_from([4, 6])), draw(st.booleans()), draw(st.integers(0, 9))
    )


def several_growths(data, module, count, plans=3):
    t = traced(module, (module.example(),), data.draw(st.sampled_from([None, "auto"])))
    check_evaluation(t)
    atoms = t.free()
    assert atoms
    for _ in range(plans):
        chosen = data.draw(st.lists(st.sampled_from(atoms), min_size=1, unique_by=id))
        sizes = {a: a.size + data.draw(st.integers(1, 4)) for a in chosen}
        note(f"{[type(b).__name__ for b in module.blocks]} {sizes}")
        try:
            grow(t, sizes)
        except MeristemError as why:
            note(str(why))
            count.append(False)
        else:
            count.append(True)


def test_random_modules():
    count = []

    @settings(calm, max_examples=5)
    @given(st.data())
    def run(data):
        several_growths(data, data.draw(stacks()), count)

    run()
    assert sum(count) >= ACCEPTED * len(count), count


@pytest.mark.full
@settings(calm, max_examples=100, derandomize=False)
@given(st.data())
def test_many_random_modules(data):
    count = []
    several_growths(data, data.draw(stacks(most=4)), count, plans=3)
    assert len(count) == 3


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_alone(name):
    """All free axes at once, with the width of the stream."""
    module = Stack((name,), 6, tokens=False, seed=1)
    t = traced(module, (module.example(),))
    grown = grow(t, {a: a.size + 1 + i % 2 for i, a in enumerate(t.free())})
    assert any(w.shape != grown.tensors[n].shape for n, w in t.carrier.tensors.items())
