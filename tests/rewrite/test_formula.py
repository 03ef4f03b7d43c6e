"""Monotone formulas and their greedy solution."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.rewrite.formula import FALSE, TRUE, Assignment, all_of, any_of, var
from meristem.rewrite.planner import compatible


def fresh():
    return Assignment(compatible)


def test_simplification():
    x = var("w", "zero")
    assert all_of([TRUE, x, TRUE]) is x
    assert all_of([x, FALSE]) is FALSE
    assert any_of([FALSE, x]) is x
    assert any_of([x, TRUE]) is TRUE
    assert all_of([]) is TRUE
    assert any_of([]) is FALSE
    assert all_of([x, x]) is x


def test_the_first_feasible_branch_is_taken():
    a = fresh()
    assert a.choose(any_of([var("w", "zero"), var("v", "zero")]))
    assert a.held == {"w": {"zero"}}


def test_properties_of_one_block_exclude_each_other():
    a = fresh()
    assert a.choose(var("w", "zero"))
    assert a.holds(var("w", "positive")) is False
    assert not a.choose(var("w", "positive"))
    assert a.choose(any_of([var("w", "positive"), var("v", "positive")]))
    assert a.held["v"] == {"positive"}


def test_twins_along_several_digits_agree():
    a = fresh()
    assert a.choose(all_of([var("w", "twin0"), var("w", "twin1")]))
    assert a.held["w"] == {"twin0", "twin1"}


def test_a_failed_branch_leaves_nothing_behind():
    a = fresh()
    assert a.choose(var("w", "zero"))
    bad = all_of([var("v", "zero"), var("w", "positive")])
    assert a.choose(any_of([bad, var("u", "zero")]))
    assert not a.held.get("v")
    assert a.held["u"] == {"zero"}


def test_forced_parts_are_assigned_and_others_left_open():
    a = fresh()
    open_ = any_of([var("x", "zero"), var("y", "zero")])
    assert a.units(all_of([var("w", "zero"), open_]))
    assert a.held == {"w": {"zero"}}
    assert a.holds(open_) is None


KEYS = ["u", "v", "w"]
PROPS = ["zero", "twin0", "positive"]
leaves = st.builds(var, st.sampled_from(KEYS), st.sampled_from(PROPS)) | st.sampled_from(
    [TRUE, FALSE]
)
formulas = st.recursive(
    leaves,
    lambda inner: (
        st.builds(all_of, st.lists(inner, max_size=3))
        | st.builds(any_of, st.lists(inner, max_size=3))
    ),
    max_leaves=8,
)


def value(f, held):
    if f.kind == "var":
        key, prop = f.args
        return held.get(key) == prop
    if f.kind in ("true", "false"):
        return f.kind == "true"
    combine = all if f.kind == "and" else any
    return combine(value(p, held) for p in f.args)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(formulas)
def test_one_formula_is_solved_where_it_can_be(f):
    """Greedy choice may miss a solution of a conjunction of disjunctions, but never claims one."""
    shown = repr(f)
    possible = any(
        value(f, dict(zip(KEYS, choice, strict=True)))
        for choice in itertools.product([*PROPS, None], repeat=len(KEYS))
    )
    a = fresh()
    if a.choose(f):
        held = {k: next(iter(p)) for k, p in a.held.items() if p}
        assert all(len(p) <= 1 for p in a.held.values())
        assert value(f, held), shown
        assert possible
    if not possible:
        assert not fresh().choose(f)
