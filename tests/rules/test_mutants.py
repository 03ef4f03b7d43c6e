"""Every mutant of the semantics is caught by a graph that passes without it (test_growth_rows.py)."""

import pytest

from tests.rules.elementwise_cases import cases
from tests.rules.growing import Wrong, grow_everything
from tests.rules.mutants import MUTANTS
from tests.rules.structure_cases import CASES

# A wrong rule shows as a wrong result, or as an engine that stumbles; a refusal would be no catch.
CAUGHT = (Wrong, AssertionError, LookupError, ValueError, RuntimeError)


def build(name):
    if name in CASES:
        return CASES[name]()
    kind, _, context = name.partition(": ")
    return cases(kind)[context]()


def caught(name):
    try:
        grow_everything(build(name))
    except CAUGHT:
        return True
    return False


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_caught(mutant, monkeypatch):
    mutant.patch(monkeypatch)
    assert any(map(caught, mutant.cases)), f"survives {mutant.cases}"


def test_there_are_enough():
    assert len(MUTANTS) >= 60
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
