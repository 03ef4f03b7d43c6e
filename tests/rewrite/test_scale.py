"""Scale factors: linear equations in logarithms."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.rewrite.scale import NONE, Linear, ScaleSystem


def test_expressions_add_and_cancel():
    s = ScaleSystem()
    x, y = s.unknown(1), s.unknown(1)
    assert x + y - x - y == NONE
    assert (x * 2.0 - x).terms == x.terms
    assert (x + Linear(0.5)).const == 0.5
    assert x * 0.0 == NONE


def test_the_most_editable_unknown_takes_the_factor():
    s = ScaleSystem()
    weight, gain, literal = s.unknown(1), s.unknown(2), s.unknown(3)
    assert s.equate(weight + gain + literal, Linear(0.7))
    assert s.value(literal) == 0.7
    assert s.value(weight) == s.value(gain) == 0.0


def test_the_latest_of_equals_takes_it():
    s = ScaleSystem()
    first, last = s.unknown(1), s.unknown(1)
    assert s.equate(first + last, Linear(1.0))
    assert (s.value(first), s.value(last)) == (0.0, 1.0)


def test_a_contradiction_is_reported():
    s = ScaleSystem()
    x = s.unknown(1)
    assert s.equate(x, Linear(0.3))
    assert s.equate(x, Linear(0.3))
    assert not s.equate(x, NONE)
    assert s.value(x) == 0.3


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.data())
def test_consistent_systems_are_solved(data):
    """Equations that some assignment meets are met by the solution."""
    n = data.draw(st.integers(1, 5))
    truth = [data.draw(st.sampled_from([-0.5, 0.0, 0.25, 1.0])) for _ in range(n)]
    s = ScaleSystem()
    unknowns = [s.unknown(data.draw(st.integers(1, 3))) for _ in range(n)]
    equations = []
    for _ in range(data.draw(st.integers(1, 6))):
        coefficients = [data.draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])) for _ in range(n)]
        e = NONE
        for c, u in zip(coefficients, unknowns, strict=True):
            e = e + u * c
        right = Linear(float(np.dot(coefficients, truth)))
        assert s.equate(e, right)
        equations.append((e, right))
    for e, right in equations:
        assert abs(s.value(e) - right.const) < 1e-9
