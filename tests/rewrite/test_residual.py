"""Which sums are residual, how they follow one another, and what belongs to a block."""

import time

import pytest

from meristem.rewrite.stacks import find_stacks
from tests.rewrite.streams import BATCH, TOKENS, WIDTH, Stream, deep


def test_sums_of_a_stream_follow_one_another():
    s, _ = deep(2)
    streams = s.streams()
    sums = list(streams.residuals)
    assert len(sums) == 4
    assert [streams.previous[op] for op in sums[1:]] == [(op, True) for op in sums[:-1]]
    assert sums[0] not in streams.previous


def test_a_norm_behind_the_sum_links_but_is_not_transparent():
    s, _ = deep(2, post=True)
    streams = s.streams()
    sums = list(streams.residuals)
    assert [streams.previous[op] for op in sums[1:]] == [(op, False) for op in sums[:-1]]


def test_biases_are_not_residual():
    s = Stream()
    s.end(s.op("relu", s.linear(s.input(), "a")))
    assert not s.streams().residuals


def test_a_sum_of_two_inputs_is_not_residual():
    s = Stream()
    s.end(s.op("add", s.input("x"), s.op("relu", s.input("y"))))
    assert not s.streams().residuals


def test_scores_with_a_shared_bias_are_not_a_stream():
    """From the second layer on, the bias is an ancestor of the scores that it is added to."""
    s = Stream()
    x = s.input()
    bias = s.op("reshape", s.weight("table", 1, TOKENS, TOKENS), shape=(1, TOKENS, TOKENS))
    s._node()
    bias = s.b.expand(bias, (BATCH, TOKENS, TOKENS))
    for i in range(3):
        s.at(f"layers.{i}")
        q, k = s.linear(x, "q"), s.linear(x, "k")
        s._node()
        scores = s.b.matmul(q, s.b.permute(k, (0, 2, 1)))
        weights = s.op("softmax", s.op("add", scores, bias), axis=2)
        s._node()
        x = s.op("add", x, s.linear(s.b.matmul(weights, x), "o"))
    streams = s.end(x).streams()
    assert [op.output.shape for op in streams.residuals] == [(BATCH, TOKENS, WIDTH)] * 3


def test_two_branches_of_one_norm_are_one_step():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        s.at(f"layers.{i}")
        y = s.norm(x)
        x = s.op("add", s.op("add", x, s.attend(y)), s.mlp(y))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert stack.size == 2
    assert [len(b.spine) for b in stack.blocks] == [1, 1]


def test_a_stream_is_followed_through_reshapes():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    flat = (BATCH * TOKENS, WIDTH)
    for i in range(2):
        s.at(f"layers.{i}")
        x = s.op("add", x, s.attend(s.norm(x)))
        x = s.op("reshape", x, shape=flat)
        x = s.op("add", x, s.mlp(s.norm(x, "norm2")))
        x = s.op("reshape", x, shape=(BATCH, TOKENS, WIDTH))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert stack.size == 2
    assert all(b.spine is not None and b.entry.shape == b.exit.shape for b in stack.blocks)


def test_a_scaled_entry_is_residual_but_not_transparent():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        s.at(f"layers.{i}")
        x = s.op("add", s.op("mul", x, s.literal(1.5)), s.mlp(x))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert stack.size == 2
    assert [b.spine for b in stack.blocks] == [None, None]


def test_keys_and_values_from_another_stream_belong_to_the_block():
    s = Stream()
    memory = s.at("encoder").norm(s.linear(s.input("m"), "in"))
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        s.at(f"decoder.{i}")
        x = s.op("add", x, s.attend(s.norm(x), memory=memory))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    leaves = {w.name.removeprefix("decoder.0.") for w in stack.blocks[0].weights}
    assert {"attn.k.weight", "attn.v.bias", "attn.o.weight", "norm.weight"} <= leaves
    assert stack.size == 2


def test_the_encoder_does_not_belong_to_a_decoder_of_one_layer():
    s = Stream()
    memory = s.at("encoder").norm(s.linear(s.input("m"), "in"))
    x = s.at("embed").linear(s.input(), "table")
    x = s.at("decoder.0").op("add", x, s.attend(s.norm(x), memory=memory))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert stack.size == 1
    assert all(w.name.startswith("decoder.0.") for w in stack.blocks[0].weights)


def test_a_long_skip_around_a_stack_is_not_the_stack():
    s = Stream()
    start = x = s.at("embed").linear(s.input(), "table")
    for i in range(3):
        x = s.block(x, f"layers.{i}")
    x = s.at("tail").op("add", start, s.linear(x, "last"))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert (stack.size, stack.place) == (3, "layers")


def test_inner_residuals_stay_inside_their_block():
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(2):
        s.at(f"layers.{i}")
        y = s.norm(x)
        for j in range(3):
            y = s.op("add", y, s.linear(s.op("relu", y), f"inner{j}"))
        x = s.op("add", x, s.linear(y, "last"))
    (stack,) = s.end(s.at("head").linear(x, "out", 9)).stacks()
    assert (stack.size, stack.place) == (2, "layers")


@pytest.mark.parametrize("layers", [150])
def test_the_analysis_is_fast_on_deep_models(layers):
    s, _ = deep(layers)
    eq = s.equations()
    start = time.perf_counter()
    (stack,) = find_stacks(s.graph, eq)
    assert stack.size == layers
    assert time.perf_counter() - start < 10
