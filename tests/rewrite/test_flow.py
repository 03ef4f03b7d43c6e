"""The content proof: obligations, strategies and factors of hand-made graphs."""

from math import exp, log, sqrt

import numpy as np
import pytest

from meristem.rewrite.blocks import source_block
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.rules.growing import free_atoms
from tests.rules.structure_cases import CASES
from tests.rules.view_carrier import Net


def grown(graph, pick=0, new=None, **options):
    eq = Equations(graph).solve()
    atom = free_atoms(eq)[pick]
    return solve(eq, {atom: new or atom.size + 2}, **options), atom


def fills(solution):
    script = edit_script(solution)
    return {e.weight.name: e.expansion.fills for e in script.weights}


def test_the_consumer_is_zeroed_and_the_producer_stays_free():
    b = Net()
    graph = b.output(b.dense(b.apply("relu", b.dense(b.input(2, 3), 5)), 2))
    solution, _ = grown(graph)
    kinds = {name: [f.kind for f in fill.values()] for name, fill in fills(solution).items()}
    assert kinds == {"w0": ["free"], "w1": ["free"], "w2": ["zero"]}


def test_a_norm_takes_its_factor_to_the_gain_and_to_epsilon():
    """Gain * sqrt(n / n') and eps * n / n'."""
    b = Net()
    graph = b.output(b.dense(b.rms(b.dense(b.input(2, 3), 4), eps=0.1), 2))
    solution, _ = grown(graph, new=6)
    script = edit_script(solution)
    (eps,) = script.literals
    assert float(eps.data) == pytest.approx(0.1 * 4 / 6, rel=1e-12)
    gain = next(e.expansion for e in script.weights if e.weight.name == "w2")
    assert exp(gain.scales[(0,)]) == pytest.approx(sqrt(4 / 6), rel=1e-12)


def test_weights_alone_carry_it_where_the_graph_may_not_change():
    b = Net()
    x = b.dense(b.input(2, 3), 4)
    graph = b.output(b.dense(b.rms(x), 2))
    solution, _ = grown(graph, new=6, compensate="weights")
    script = edit_script(solution)
    assert not script.literals
    writers = [e.expansion for e in script.weights if e.weight.name in ("w0", "w1")]
    assert all(
        next(iter(w.scales.values())) == pytest.approx(log(6 / 4) / 2, rel=1e-12) for w in writers
    )


def test_strategies_are_raised_in_order():
    b = Net()
    x = b.dense(b.input(2, 3), 4)
    assert set(grown(b.output(b.dense(b.layer_norm(x), 2)))[0].strategies.values()) == {"mean"}
    b = Net()
    x = b.apply("relu", b.dense(b.input(2, 3), 4))
    assert set(grown(b.output(b.dense(b.layer_norm(x), 2)))[0].strategies.values()) == {
        "statistics"
    }


def test_copies_are_taken_only_at_whole_multiples():
    b = Net()
    x = b.apply("relu", b.dense(b.input(2, 3), 4))
    graph = b.output(b.dense(b.layer_norm(x), 2))
    solution, _ = grown(graph, new=8, compensate="weights")
    assert set(solution.strategies.values()) == {"copy"}
    with pytest.raises(NotPreserved):
        grown(graph, new=6, compensate="weights")


def test_a_refusal_names_operator_and_reason():
    with pytest.raises(NotPreserved, match="take reads by an index") as caught:
        grown(CASES["take: an index that depends on the data"]())
    assert caught.value.op == "take"
    assert "negative" in caught.value.reason
    assert caught.value.failures


def test_nothing_grows_silently_beside_the_request():
    b = Net()
    x = b.input(2, 3)
    graph = b.output(
        b.dense(b.apply("relu", b.dense(x, 5)), 2), b.dense(b.apply("tanh", b.dense(x, 4)), 2)
    )
    solution, _ = grown(graph)
    assert {e.weight.name for e in edit_script(solution).weights} == {"w0", "w1", "w2"}


def test_the_source_of_a_block():
    b = Net()
    w = b.weight(4, 6)
    graph = b.output(b.dense(b.linear(b.dense(b.input(2, 3), 6), w), 2))
    eq = Equations(graph).solve()
    atoms = free_atoms(eq)
    solution = solve(eq, {a: a.size + 1 for a in atoms})
    grid = solution.flow.grid(w)
    assert source_block(grid, (1, 1), 0) == (0, 1)
    assert source_block(grid, (1, 1), 1) == (1, 0)
    with pytest.raises(AssertionError):
        source_block(grid, (0, 0), 0)


def test_the_script_is_the_same_every_time():
    def once():
        solution, _ = grown(CASES["contract: grouped attention with a mask"]())
        script = edit_script(solution, seed=3)
        return [
            (e.weight.name, e.expansion.apply(e.weight.array()).tolist()) for e in script.weights
        ]

    assert once() == once()


def test_a_factor_is_undone_where_a_constant_is_added():
    b = Net()
    y = b.rms(b.dense(b.input(2, 3), 4), gain=False)
    y = b.apply("add", y, b.weight(data=np.ones(4), role="buffer"))
    graph = b.output(b.dense(y, 2))
    eq = Equations(graph).solve()
    with pytest.raises(NotPreserved, match="two different scale factors"):
        solve(eq, {free_atoms(eq)[0]: 6}, strategies={free_atoms(eq)[0]: ("zero",)})
