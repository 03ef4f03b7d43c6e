"""Random small graphs under random growths: what is accepted computes the same, and is finite."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from meristem.rewrite.blocks import COPIES
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.idioms import simplify
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.rewrite.random_graphs import BLOCKS, graphs
from tests.rules.growing import UNEQUAL, check, free_atoms
from tests.rules.view_carrier import random_inputs, run

# At least this share of the random growths must be accepted; what is refused costs the user.
ACCEPTED = 0.6
COUNT = {"accepted": 0, "refused": 0}

calm = settings(
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)


def one_growth(data, graph):
    """Draw a plan, apply it, and measure everything that its proof claims: of how many values, or None
    where there is nothing to grow, or the growth is refused."""
    eq = Equations(graph).solve()
    atoms = free_atoms(eq)
    if not atoms:
        return None
    inputs = random_inputs(graph, 1)
    before = run(graph, inputs)
    largest = max(
        np.abs(a[np.isfinite(a)]).max(initial=0) for a in before.values() if a.dtype.kind == "f"
    )
    if largest > 50 or not all(np.all(np.isfinite(before[v])) for _, v in graph.outputs):
        return None  # exp and sigmoid would underflow, which no proof of a sign can see
    chosen = data.draw(st.lists(st.sampled_from(atoms), min_size=1, unique_by=id), label="atoms")
    sizes = {t: t.size + data.draw(st.integers(1, 4)) for t in chosen}
    compensate = data.draw(st.sampled_from(["graph", "graph", "weights"]))
    if data.draw(st.integers(0, 3)) == 0:
        sizes = {t: t.size * data.draw(st.integers(2, 3)) for t in chosen}
    strategies = None
    if data.draw(st.booleans()):
        orders = st.lists(
            st.sampled_from(["zero", "mean", "statistics", "pair", *COPIES]), min_size=1
        )
        strategies = {t: data.draw(orders) for t in chosen}
        strategies = {
            t: [s for s in order if s != "copy" or sizes[t] % t.size == 0] or ["zero"]
            for t, order in strategies.items()
        }
    note(f"{graph}\n{sizes} {compensate} {strategies}")  # the whole case, as a person reads it
    try:
        solution = solve(eq, sizes, compensate=compensate, strategies=strategies)
        script = edit_script(solution, seed=data.draw(st.integers(0, 2)), split=UNEQUAL)
    except MeristemError as why:
        note(str(why))
        if strategies is None and compensate == "graph":
            COUNT["refused"] += 1
        return None
    if strategies is None and compensate == "graph":
        COUNT["accepted"] += 1
    return check(solution, script, [inputs], [before])


@settings(calm, max_examples=150)
@given(st.data())
def test_random_graphs(data):
    measured = one_growth(data, simplify(data.draw(graphs())))
    assert measured is None or measured > 0


def test_enough_is_accepted():
    """Runs in file order after the property; alone it has nothing to count."""
    total = sum(COUNT.values())
    if total < 50:
        pytest.skip("the property test has not run in this process")
    assert COUNT["accepted"] >= ACCEPTED * total, COUNT


@pytest.mark.full
@settings(calm, max_examples=3000, derandomize=False)
@given(st.data())
def test_many_random_graphs(data):
    measured = one_growth(data, simplify(data.draw(graphs(most=6))))
    assert measured is None or measured > 0


def test_every_block_is_drawn():
    assert len(BLOCKS) >= 20
