"""Value size: sizes, and growths in float64 with heads of their own and shared ones."""

import pytest

from meristem.rewrite.errors import SizeError
from tests.passes.cases import LIMIT, grow_and_measure, reached, sizes_of


@pytest.mark.parametrize(("target", "size"), [(6, 6), (7, 7), ("+3", 9), ("x1.5", 9), ("x1.2", 7)])
def test_targets(target, size):
    assert reached("value_dim", 6, target) == size


def test_a_size_below_todays_is_refused():
    with pytest.raises(SizeError, match="give at least 6"):
        reached("value_dim", 6, 5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_values_grow_inside_their_heads(name):
    grown, error = grow_and_measure(name, {"value_dim": "+3"})
    assert error <= LIMIT
    assert sizes_of(grown, "value_dim") == {9}
    assert sizes_of(grown, "qk_dim") == {6}
