"""Shares: which axes can be shared is seen in the graph, and shares sum to what they were."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from meristem.rewrite.equations import Equations
from meristem.rewrite.expansion import Expansion, Fill, Split
from meristem.rewrite.idioms import simplify
from meristem.rewrite.lift import Lift, replicas
from meristem.rewrite.plan import expansion_data, expansion_from
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from meristem.rewrite.shares import shared_axes
from tests.rules.growing import check, free_atoms
from tests.rules.view_carrier import Net, random_inputs, run

SHARED = Lift(("prod", ("share", 3, 5, ""), ("share", 2, 5, "key")))
ROWS = Lift(("atom", 4, 6))


def named(graph):
    """Of weights alone."""
    found = shared_axes(graph)
    return {w.name: found[w] for w in graph.weights if w in found}


def two_layers() -> Net:
    b = Net()
    x = b.input(2, 3)
    y = b.linear(b.apply("relu", b.linear(x, b.weight(5, 3))), b.weight(2, 5))
    b.output(y)
    return b


def test_what_a_layer_sums_is_shared():
    graph = two_layers().graph
    assert named(graph) == {"w0": {1}, "w1": {1}}


def test_a_weight_that_is_also_read_otherwise_is_not():
    b = Net()
    x, w = b.input(2, 3), b.weight(5, 3)
    b.output(b.linear(x, w))
    b.output(b.apply("relu", w))
    assert named(b.graph) == {}


def test_shares_pass_what_only_moves_entries():
    b = Net()
    w = b.weight(6, 2, 3)
    flat = b.reshape(b.permute(w, (1, 2, 0)), (6, 6))
    b.output(b.linear(b.input(2, 6), flat))
    assert named(b.graph) == {"w0": {0}}
    assert shared_axes(b.graph)[flat] == {1}, "and so are the axes of what is read"
    b = Net()
    w = b.weight(6, 2, 3)
    b.output(b.linear(b.input(2, 6), b.reshape(w, (6, 6))))
    assert named(b.graph)["w0"] == {1, 2}, "both factors of what is summed"


def test_of_two_weights_that_meet_one_is_shared():
    b = Net()
    both = b.linear(b.weight(4, 3), b.weight(5, 3))
    b.output(b.apply("relu", both))
    assert named(b.graph) == {"w0": {1}}


def test_a_weight_does_not_share_with_itself():
    b = Net()
    w = b.weight(4, 3)
    b.output(b.linear(b.input(2, 4), b.matmul(w, b.permute(w, [1, 0]))))
    assert named(b.graph) == {}


@pytest.mark.parametrize("split", [Split(), Split(unequal=0.5), Split(noise=1.0), Split(0.3, 0.2)])
def test_a_coordinate_and_its_replicas_sum_to_what_it_held(split):
    w = np.random.default_rng(0).standard_normal((4, 6))
    recipe = Expansion("w", (ROWS, SHARED), {(1, 0): Fill("copy", 0, (0, 0))}, split=split)
    new = recipe.apply(w)
    assert new.shape == (6, 25)
    sums = np.zeros((6, 6))
    np.add.at(sums.T, SHARED.shared(), new.T)
    np.testing.assert_allclose(sums, w[[0, 1, 2, 3, 0, 1]], rtol=0, atol=1e-14)
    even = np.allclose(new, w[[0, 1, 2, 3, 0, 1]][:, SHARED.shared()] / counts(SHARED.shared()))
    assert even == split.even
    assert np.array_equal(new, recipe.apply(w)), "nothing is drawn twice"


def test_quiet_blocks_have_no_noise():
    """Their shares differ by the replica alone, so rows that repeat others, or come in halves, still do."""
    w = np.random.default_rng(0).standard_normal((4, 6))
    recipe = Expansion(
        "w",
        (Lift(("atom", 4, 8)), SHARED),
        {(1, 0): Fill("free", pairs=((0, -1),))},
        split=Split(0.3, 0.2),
        quiet=((1, 0),),
    )
    new = recipe.apply(w)
    assert np.array_equal(new[6:], -new[4:6])
    part = new[4] / new[5]
    core = replace(recipe, axes=(recipe.axes[0], SHARED.core)).apply(w)
    np.testing.assert_allclose(part, (core[4] / core[5])[SHARED.shared()], rtol=1e-12)
    old = new[0] / new[1]
    assert np.abs(old / (w[0] / w[1])[SHARED.shared()] - 1).max() > 0.1, "the others have it"
    assert expansion_from(expansion_data(recipe)) == recipe


def counts(source):
    return np.bincount(source)[source]


def test_noise_is_measured_by_the_weight():
    w = np.random.default_rng(0).standard_normal((64, 200)) * 3
    lift = Lift(("share", 200, 800, ""))
    new = Expansion("w", (Lift(("atom", 64, 64)), lift), split=Split(noise=0.5)).apply(w)
    rest = new - w[:, lift.shared()] / 4
    assert abs(rest.std() - 0.5 * 3 * (3 / 4) ** 0.5) < 0.02, "centred over four replicas"


def test_replicas_are_drawn_or_taken_in_turn():
    assert replicas(3, 7, "").tolist() == [0, 1, 2, 0, 1, 2, 0]
    drawn = replicas(50, 400, "0|mlp")
    assert set(drawn) == set(range(50))
    assert np.array_equal(drawn, replicas(50, 400, "0|mlp"))
    assert not np.array_equal(drawn, replicas(50, 400, "1|mlp"))


def test_groups_in_pairs_with_noisy_copies_inside():
    """The weight of a grouped convolution: halves along its groups, shares along what a group sums. In new
    groups the copies that it sums are not equal, and noise among their shares would not cancel."""
    b = Net(0)
    x = b.permute(b.dense(b.input(2, 3, 4), 4), [0, 2, 1])
    y = b.convolution(
        x,
        b.weight(2, 2, 3),
        b.weight(2),
        stride=[1],
        pads=[(1, 1)],
        dilation=[1],
        groups=2,
        groups_role="g",
    )
    b.output(b.dense(b.permute(y, [0, 2, 1]), 2))
    graph = simplify(b.graph)
    eq = Equations(graph).solve()
    inputs = random_inputs(graph, 1)
    for groups, channels in permutations(free_atoms(eq), 2):
        solution = solve(
            eq, {groups: 4, channels: 3}, strategies={groups: ["pair"], channels: ["circular"]}
        )
        script = edit_script(solution, split=Split(0.3, 0.5))
        check(solution, script, [inputs], [run(graph, inputs)])
