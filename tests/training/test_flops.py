"""What a step costs and what a run has cost, against formulas by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from meristem.demo_model import Decoder, Sizes
from meristem.rewrite.errors import MeristemError
from meristem.training.flops import count_step, counted, refuse_unknown
from meristem.training.ledger import Ledger

BATCH, TIME = 3, 12


def decoder_loss(module: nn.Module) -> torch.Tensor:
    tokens = torch.arange(BATCH * (TIME + 1)).reshape(BATCH, TIME + 1) % 256
    return F.cross_entropy(module(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def by_hand(s: Sizes, flash: bool) -> int:
    """2 n k m for every product of the forward pass, twice that backward.

    Attention has two products forward and four backward; a flash kernel computes the scores again.
    """
    n, scores = BATCH * TIME, BATCH * s.heads * TIME * TIME
    weights = s.hidden * (s.heads + s.kv_heads) * (s.qk_dim + s.value_dim) + 3 * s.hidden * s.mlp
    products = s.layers * weights + s.hidden * 256
    query_key, value = 2 * scores * s.qk_dim, 2 * scores * s.value_dim
    attention = s.layers * (3 * (query_key + value) + flash * query_key)
    return 3 * 2 * n * products + attention


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_decoder_by_hand(dropout: float) -> None:
    """Without dropout attention is one operator on a CPU, which torch's counter leaves out."""
    s = Sizes(hidden=20, heads=4, kv_heads=2, qk_dim=6, value_dim=6, mlp=24, dropout=dropout)
    module = Decoder(s).train()
    count = count_step(module, decoder_loss)
    flash = "_scaled_dot_product_flash_attention_for_cpu" in count.by
    assert flash == (dropout == 0)
    # The first block's input needs a gradient too, for the embedding learns.
    assert count.flops == by_hand(s, flash)
    assert count.flops == sum(count.by.values())
    assert not count.unknown
    assert {"silu", "embedding"} <= set(count.linear)
    assert count.parameters == sum(p.numel() for p in module.parameters())


def test_convolutions_and_vectors_by_hand() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    x, v = torch.randn(2, 3, 8, 8), torch.randn(4 * 36)

    def loss(m: nn.Module) -> torch.Tensor:
        return (m(x) @ v).square().sum()

    count = count_step(module, loss)
    convolution = 2 * (2 * 4 * 36) * (3 * 9)
    assert count.by["convolution"] == convolution
    assert count.by["mv"] == 2 * 2 * v.numel()
    assert not count.unknown


def test_a_step_that_is_counted_leaves_no_trace() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
    ).train()
    module[0].weight.grad = torch.ones(6, 4)
    state = {n: t.clone() for n, t in module.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.randn(5, 4)
    torch.set_rng_state(random)
    calls = []

    def loss(m: nn.Module) -> torch.Tensor:
        calls.append(1)
        return m(x).square().mean()

    first = counted(module, loss)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())
    assert torch.equal(module[0].weight.grad, torch.ones(6, 4))
    assert module[3].weight.grad is None
    assert counted(module, loss) is first
    assert len(calls) == 1
    counted(module, loss, key="a larger batch")
    module.eval()
    counted(module, loss)
    assert len(calls) == 3
    with pytest.raises(MeristemError, match="did not return one number"):
        count_step(module, lambda m: m(x))


def test_what_is_not_counted_has_a_name() -> None:
    module = nn.LSTM(4, 5)
    x = torch.randn(3, 2, 4)
    count = count_step(module, lambda m: m(x)[0].square().mean())
    assert "mkldnn_rnn_layer" in count.unknown
    with pytest.raises(MeristemError, match=r"not counted.*mkldnn_rnn_layer"):
        refuse_unknown(count)
    ledger = Ledger()
    ledger.stage("recurrent", 10.0)
    ledger.stage("counted", type(count)(5, 1, unknown=count.unknown))
    assert "no formula: mkldnn_rnn_layer" in str(ledger)


# -- the ledger ------------------------------------------------------------------------------------


def grown_run() -> Ledger:
    ledger = Ledger()
    ledger.source("donor", 500.0, parameters=10, tokens=50, seconds=5.0)
    ledger.stage("small", 100.0, parameters=10)
    for loss in (4.0, 3.0):
        ledger.step(5, tokens=10, seconds=1.0)
        ledger.record(loss)
    ledger.growth(seconds=2.0, flops=30.0)
    ledger.stage("grown", 200.0, parameters=20)
    ledger.step(10, tokens=20, seconds=4.0)
    ledger.record(2.0)
    return ledger


def scratch_run() -> Ledger:
    ledger = Ledger()
    ledger.stage("large", 200.0, parameters=20)
    for loss in (3.5, 2.5, 2.0):
        ledger.step(10, tokens=20, seconds=4.0)
        ledger.record(loss)
    return ledger


def test_savings_are_computed_with_the_source_and_the_growth() -> None:
    grown, scratch = grown_run(), scratch_run()
    assert grown.flops == 500 + 1000 + 30 + 2000
    assert (grown.steps, grown.tokens, grown.seconds) == (20, 90, 13.0)
    assert scratch.flops == 6000
    saving = grown.saved(scratch)
    assert saving.share == pytest.approx(1 - 3530 / 6000)
    assert saving.speed_up == pytest.approx(6000 / 3530 - 1)
    assert grown.saved(scratch, what="seconds").share == pytest.approx(1 - 13 / 12)
    # To a loss of 2.5: half way between 1500 and 3530 here, after 20 steps there.
    to = grown.saved(scratch, loss=2.5)
    assert (to.own, to.baseline) == (2515, 4000)
    assert "37.1% saved, speed-up +59.0%" in str(to)
    assert "more, speed-up -" in str(scratch.saved(grown))
    with pytest.raises(MeristemError, match="this run never came to a loss of 1: its least is 2"):
        grown.saved(scratch, loss=1.0)
    with pytest.raises(MeristemError, match="no loss was recorded"):
        grown.saved(Ledger(), loss=2.0)
    with pytest.raises(MeristemError, match="has cost no flops"):
        grown.saved(Ledger())


def test_a_ledger_goes_on_where_it_stopped() -> None:
    ledger = grown_run()
    again = Ledger.from_data(json.loads(ledger.to_json()))
    assert again.data() == ledger.data()
    again.stage("grown", 200.0)
    again.step()
    assert again.steps == 21
    assert len(again.entries) == len(ledger.entries)
    lines = str(ledger).splitlines()
    assert [line.split()[0] for line in lines] == [
        "stage",
        "donor",
        "small",
        "growth",
        "grown",
        "total",
    ]
    assert len(set(map(len, lines))) == 1


@pytest.mark.parametrize("what", [
    (lambda x: Ledger().step(), "no stage was begun"),
    (lambda x: x.step(0), "above 0"),
    (lambda x: x.record(math.nan), "diverged"),
    (lambda x: x.stage("grown", 300.0), "a stage of its own"),
    (lambda x: x.stage("other", 0.0), "above 0"),
    (lambda x: x.source("donor", -1.0), "0 or more"),
    (lambda x: x.load_state_dict({"meristem_ledger": 1}), "no ledger"),
    (lambda x: x.load_state_dict([]), "no ledger"),
    (lambda x: x.load_state_dict({"meristem_ledger": 1, "entries": [{"m": 1}], "curve": []}), "no ledger"),
    (lambda x: x.saved(x, what="hours"), "flops or seconds"),
])  # fmt: skip
def test_what_does_not_add_up_changes_nothing(what: tuple[Any, str]) -> None:
    ledger = grown_run()
    before = ledger.data()
    act, word = what
    with pytest.raises(MeristemError, match=word):
        act(ledger)
    assert ledger.data() == before
