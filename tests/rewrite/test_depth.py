"""Zero sets, periods, positions and names of new blocks, on streams made by hand."""

from functools import partial

import numpy as np
import pytest

from meristem.rewrite.depth import plan_depth, possible_sizes
from meristem.rewrite.errors import SizeError
from meristem.rewrite.made import Woken, made
from meristem.rewrite.stacks import find_stacks
from meristem.rewrite.zeros import zeroed
from tests.rewrite.streams import WIDTH, Stream, deep


def grow(s, added=1, at="end", pick=None):
    eq = s.equations()
    stacks = find_stacks(s.graph, eq)
    sizes = {k: k.size + added for k in stacks if pick is None or k.name == pick}
    return plan_depth(s.graph, eq, sizes, at)


def names(script):
    return [sorted(c.name(w.name) for w in c.zeroed) for c in script.clones]


# -- what must be zero ------------------------------------------------------------------------


def zero_names(s, value):
    found = zeroed([value], s.graph.ops, s.graph.weights)
    return None if found is None else {w.name: v for w, v in found.items()}


def test_the_output_projection_with_its_bias():
    s = Stream()
    y = s.mlp(s.norm(s.input()))
    assert zero_names(s, y) == {"mlp.down.weight": 0.0, "mlp.down.bias": 0.0}


def test_a_layer_scale_is_nearer_than_the_projection():
    s = Stream()
    y = s.op("mul", s.mlp(s.input()), s.weight("scale", WIDTH))
    assert zero_names(s, y) == {"scale": 0.0}


def test_a_gain_that_is_stored_less_one():
    s = Stream()
    gain = s.op("add", s.weight("gain", WIDTH), s.literal(1.0))
    s._node()
    y = s.op("mul", s.b.norm(s.mlp(s.input()), [-1], 1e-5, False, ("args", 4)), gain)
    assert zero_names(s, y) == {"gain": -1.0}


def test_a_norm_behind_the_branch_with_gain_and_bias():
    s = Stream()
    y = s.op("add", s.norm(s.mlp(s.input())), s.weight("bias", WIDTH))
    assert zero_names(s, y) == {"norm.weight": 0.0, "bias": 0.0}


def test_layout_where_and_functions_with_f0_0_are_looked_through():
    s = Stream()
    y = s.op("permute", s.op("tanh", s.mlp(s.input())), perm=(1, 0, 2))
    keep = s.b.literal(True, "bool")
    assert zero_names(s, s.op("where", keep, y, s.literal(0.0))) == {
        "mlp.down.weight": 0.0,
        "mlp.down.bias": 0.0,
    }


def test_nothing_makes_a_sigmoid_zero():
    s = Stream()
    assert zero_names(s, s.op("sigmoid", s.mlp(s.input()))) is None


def test_buffers_and_the_weights_of_others_are_left_alone():
    s = Stream()
    y = s.op("mul", s.mlp(s.input()), s.weight("statistics", WIDTH, role="buffer"))
    assert "statistics" not in zero_names(s, y)
    others = [w for w in s.graph.weights if "mlp.down" not in w.name]
    assert zeroed([y], s.graph.ops, others) is None  # the bias is nobody's, so the sum stays


# -- identity or gate ---------------------------------------------------------------------------


def test_a_new_block_of_a_prenorm_stack():
    s, _ = deep(2)
    script = grow(s)
    zero = [f"layers.2.{leaf}" for leaf in ("attn.o", "mlp.down")]
    expected = sorted(f"{z}.{k}" for z in zero for k in ("weight", "bias"))
    assert names(script) == [expected]
    assert [c.gate for c in script.clones] == [None]
    assert not script.added


def test_a_new_block_of_a_postnorm_stack_stands_behind_a_gate():
    s, _ = deep(2, post=True)
    script = grow(s, 2)
    assert [c.gate for c in script.clones] == ["layers.2.gate", "layers.3.gate"]
    assert names(script) == [[], []]
    assert len(script.added) == 2
    assert "gate" in str(script.reports[0])


def rows_of_zeros(array):
    array = np.array(array)
    array[:2] = 0
    return array


def test_zeros_before_a_zero_gain_are_drawn():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        s.at(f"layers.{i}")
        x = s.op("add", x, s.norm(s.mlp(s.norm(x, "before")), "after"))
    s.end(s.at("head").linear(x, "out", 9))
    made = {c.name(w.name): m for c in grow(s).clones for w, m in c.made.items()}
    assert list(made) == ["layers.2.after.weight"], "no more is needed"
    for w in s.graph.weights:
        if w.name.endswith("mlp.down.weight"):
            w.read = partial(rows_of_zeros, w.array())
    script = grow(s)
    made = {c.name(w.name): m for c in script.clones for w, m in c.made.items()}
    assert {n: m.text for n, m in made.items()} == {
        "layers.2.after.weight": "0.0",
        "layers.2.mlp.down.weight": '{"woken": "layers.2.mlp.down.weight", "axes": [0]}',
    }


def test_only_slices_of_zeros_wake():
    source = np.random.default_rng(0).normal(1, 0.1, (400, 30)).astype(np.float32)
    source[5, 7] = 0
    woken = made(Woken("a name", (0, 1)).text)
    assert np.array_equal(woken.apply(source), source)
    source[200:] = 0
    source[:, -1] = 0
    got = woken.apply(source)
    assert np.array_equal(got[:200, :-1], source[:200, :-1])
    for drawn in (got[200:], got[:, -1]):
        assert (abs(drawn.mean() - 1) < 0.05, 0.05 < drawn.std() < 0.2) == (True, True)
    assert got.dtype == np.float32
    assert np.array_equal(woken.apply(source * 0), source * 0)


def test_inputs_and_outputs_of_single_blocks_are_told():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    mask = s.input("mask")
    states = []
    for i in range(2):
        past = s.input(f"past{i}")
        s.at(f"layers.{i}")
        state = s.op("add", s.linear(s.norm(x), "inner"), s.op("permute", past, perm=(0, 1, 2)))
        states.append(s.op("identity", state))
        x = s.op("add", x, s.linear(s.op("mul", s.op("relu", state), mask), "outer"))
    (report,) = grow(s.end(s.at("head").linear(x, "out", 9), x, *states), 2).reports
    assert (report.reads, report.returns) == (("past0", "past1"), ("out2", "out3"))
    assert "they read past0, past1 as the blocks that they copy do" in str(report)
    assert str(report).endswith("only the old blocks return out2, out3")


def test_weights_that_all_layers_share_leave_only_a_gate():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    s.at("shared")
    w, c = s.weight("weight", WIDTH, WIDTH), s.weight("bias", WIDTH)
    for i in range(3):
        s.at(f"layers.{i}")
        s._node()
        x = s.op("add", x, s.b.linear(s.op("relu", x), w, c))
    script = grow(s.end(s.at("head").linear(x, "out", 9)))
    assert script.clones[0].gate is not None
    assert not script.clones[0].block.weights


# -- periods ------------------------------------------------------------------------------------


def alternating(layers):
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(layers):
        s.at(f"layers.{i}")
        y = s.op("add", s.norm(x), s.literal(float(i % 2)))
        x = s.op("add", x, s.mlp(y))
    return s.end(s.at("head").linear(x, "out", 9))


@pytest.mark.parametrize("layers", [2, 4, 5])
def test_blocks_that_alternate_grow_by_whole_periods(layers):
    s = alternating(layers)
    (stack,) = s.stacks()
    assert (stack.size, stack.period) == (layers, 2)
    with pytest.raises(SizeError, match=f"every 2 blocks, so it grows to {layers + 2}") as caught:
        grow(s, 1)
    assert caught.value.possible == possible_sizes(stack)
    assert [c.source for c in grow(s, 2).clones] == [layers - 2, layers - 1]


def test_a_first_layer_of_another_kind_is_a_stack_of_its_own():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(4):
        s.at(f"layers.{i}")
        x = s.op("add", x, s.mlp(s.norm(x), width=20 if i == 0 else 8))
    s.end(s.at("head").linear(x, "out", 9))
    assert [(k.name, k.size) for k in s.stacks()] == [("layers@layers", 1), ("layers@layers#2", 3)]
    script = grow(s, 1)
    assert [next(iter(c.modules.items())) for c in script.clones] == [
        ("layers.0", "layers.1"),
        ("layers.3", "layers.5"),
    ]
    assert script.moves == {f"layers.{i}": f"layers.{i + 1}" for i in (1, 2, 3)}


# -- positions and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "sources", "targets"),
    [
        ("end", [3, 3], ["layers.4", "layers.5"]),
        ("spread", [1, 3], ["layers.2", "layers.5"]),
        ([0, 2], [0, 1], ["layers.0", "layers.3"]),
        ([1], [0, 0], ["layers.1", "layers.2"]),
        ([4, 0], [0, 3], ["layers.0", "layers.5"]),
    ],
)
def test_positions(at, sources, targets):
    script = grow(deep(4)[0], 2, at)
    assert [c.source for c in script.clones] == sources
    assert [next(iter(c.modules.values())) for c in script.clones] == targets
    taken = {script.moved(f"layers.{i}.norm1.weight") for i in range(4)}
    assert len(taken | {f"{t}.norm1.weight" for t in targets}) == 6


@pytest.mark.parametrize("at", [[0, 1, 2], [5], [-1], [], "middle"])
def test_positions_that_do_not_fit(at):
    with pytest.raises(SizeError):
        grow(deep(4)[0], 2, at)


def test_fewer_blocks_than_today():
    s, _ = deep(3)
    with pytest.raises(SizeError, match="only grows"):
        grow(s, -1)


def test_the_same_number_is_no_growth():
    script = grow(deep(3)[0], 0)
    assert not script.clones
    assert not script.reports


def test_modules_behind_the_stack_in_its_container_move_up():
    s = Stream()
    x = s.at("0").linear(s.input(), "table")
    for i in (1, 2):
        x = s.block(x, f"{i}")
    s.end(s.at("3").linear(s.norm(x), "out", 9))
    script = grow(s)
    assert script.moves == {"3": "4"}
    assert next(iter(script.clones[0].modules.items())) == ("2", "3")


def test_what_the_whole_stack_shares_keeps_its_name():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    shared = s.at("layers.0").op("tanh", s.weight("table", WIDTH))
    for i in range(2):
        s.at(f"layers.{i}")
        x = s.op("add", x, s.mlp(s.op("mul", s.norm(x), shared)))
    s.end(s.at("head").linear(x, "out", 9))
    script = grow(s, 1, [0])
    assert script.moved("layers.0.table") == "layers.0.table"
    assert script.moved("layers.0.mlp.up.weight") == "layers.1.mlp.up.weight"
    assert all(w.name != "layers.0.table" for w in script.clones[0].block.weights)


def test_blocks_without_numbers_get_names_of_their_own():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    x = s.block(x, "trunk")
    script = grow(s.end(s.at("head").linear(x, "out", 9)))
    assert script.clones[0].name("trunk.norm1.weight") == "trunk.norm1_grown1.weight"


def test_two_stacks_grow_apart():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        x = s.block(x, f"encoder.{i}")
    memory = s.at("encoder").norm(x, "last")
    x = s.at("embed2").linear(s.input("y"), "table")
    for i in range(3):
        s.at(f"decoder.{i}")
        x = s.op("add", x, s.attend(s.norm(x), memory=memory))
        x = s.op("add", x, s.mlp(s.norm(x, "norm2")))
    s.end(s.at("head").linear(x, "out", 9))
    assert [(k.name, k.size) for k in s.stacks()] == [("layers@encoder", 2), ("layers@decoder", 3)]
    script = grow(s, 1, pick="layers@decoder")
    assert [r.stack for r in script.reports] == ["layers@decoder"]
    assert all(n.startswith("decoder.3") for n in names(script)[0])
