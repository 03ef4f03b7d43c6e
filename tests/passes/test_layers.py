"""Layers: the zoo's stacks grow anywhere without changing the function, and what is new learns."""

import pytest
import torch
from torch import nn

import meristem
from meristem.demo_model import Decoder, Sizes
from meristem.passes.layers import LAYERS
from meristem.rewrite.axes import Term
from meristem.rewrite.errors import NotPreserved, SizeError
from tests.e2e.measure import algebra_error, leaves
from tests.passes.cases import LIMIT, dimension, traced, wish
from tests.zoo import ZOO, build
from tests.zoo.entry import randomise

NAMES = [name for name, entry in ZOO.items() if "layers" in entry.kinds]
QUICK = ["nanogpt", "bert", "gemma2"]
POSTNORM = {"bert", "bert_encoder", "roberta", "bart", "opt_postnorm"}
POSTNORM |= {"torch_encoder_postnorm", "torch_encoder_bare"}


def cases(names):
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in names]


def stacks(model):
    return [d for d in model.dimensions if d.kind == "layers"]


def targets(model, more):
    """``more`` blocks for each stack, or a whole period of blocks that alternate."""
    return {d.name: d.size + max(more, model.stacks[d.name].period) for d in stacks(model)}


# -- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "period", "size"),
    [(5, 1, 5), ("+3", 1, 7), ("x1.5", 1, 6), ("x1.6", 2, 6), ("x1.1", 2, 4), (4, 1, 4)],
)
def test_targets(target, period, size):
    d = dimension("layers", Term(4))
    assert LAYERS.solve([wish(d, target)], {d.name: period}) == {d.name: size}


def test_fewer_layers():
    with pytest.raises(SizeError, match="cannot become 3"):
        LAYERS.solve([wish(dimension("layers", Term(4)), 3)], {})


# -- the zoo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases(NAMES))
def test_every_model_has_its_stacks(name):
    model, _ = traced(name)
    sizes = [d.size for d in stacks(model)]
    towers = {"t5", "t5_untied", "bart", "whisper", "clip", "swin", "timm_swin", "convnext_hf"}
    if name == "convnext":
        assert sizes == [2, 1, 1, 1]
    else:
        assert sizes == [2] * (2 if name in towers else 1)


@pytest.mark.parametrize("at", ["end", pytest.param("spread", marks=pytest.mark.full), [0]])
@pytest.mark.parametrize("name", cases(NAMES))
def test_growth_is_exact_and_can_be_repeated(name, at):
    model, inputs = traced(name)
    wanted = targets(model, 1 if at == "end" else 2)
    grown = meristem.grow(model, wanted, at=at)
    assert {d.name: d.size for d in stacks(grown)} == wanted
    assert algebra_error(model, grown, *inputs) <= LIMIT
    gated = any("gate" in text for text in grown.plan.added)
    assert gated == (name in POSTNORM)
    again = meristem.grow(grown, targets(grown, 1))
    assert algebra_error(grown, again, *inputs) <= LIMIT


@pytest.mark.parametrize("name", ["nanogpt", "bert"])
def test_dynamic_programs(name):
    module, args, kwargs = build(name)
    model = meristem.trace(module, args, kwargs)
    grown = meristem.grow(model, targets(model, 1))
    assert algebra_error(model, grown, *leaves(args, kwargs)) <= LIMIT


def test_stacks_grow_apart():
    model, inputs = traced("t5")
    wanted = {"layers@encoder.block": 3, "layers@decoder.block": 5}
    grown = meristem.grow(model, wanted)
    assert {d.name: d.size for d in stacks(grown)} == wanted
    assert algebra_error(model, grown, *inputs) <= LIMIT


def test_alternating_blocks_grow_by_whole_periods():
    model, _ = traced("gemma2")
    with pytest.raises(SizeError, match="every 2 blocks, so it grows to 4, 6, 8") as caught:
        meristem.grow(model, {"layers": 3})
    assert caught.value.possible == [2, 4, 6, 8]


def test_width_and_depth_at_once():
    model, inputs = traced("nanogpt")
    grown = meristem.grow(model, {"mlp": 48, "heads": "+1", "layers": 3}, at=[1])
    assert algebra_error(model, grown, *inputs) <= LIMIT


# -- names --------------------------------------------------------------------------------------


DEEPER = {
    "gpt2": ("n_layer", 4),
    "llama_tied": ("num_hidden_layers", 4),
    "qwen3": ("num_hidden_layers", 3),
    "gemma2": ("num_hidden_layers", 4),
    "vit": ("num_hidden_layers", 3),
    "t5": ("num_layers", 4),
}


def deeper(name, size):
    """The class itself with more layers, other weights."""
    module, *_ = build(name)
    config = module.config
    setattr(config, DEEPER[name][0], size)
    if name == "t5":
        config.num_decoder_layers = size
    if hasattr(config, "layer_types") and config.layer_types:
        config.layer_types = (config.layer_types * size)[:size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        big = type(module)(config)
        randomise(big)
    return big.eval()


@pytest.mark.parametrize("at", ["end", [0]])
@pytest.mark.parametrize(
    "name", [n if n in ("gpt2", "t5") else pytest.param(n, marks=pytest.mark.full) for n in DEEPER]
)
def test_the_class_itself_takes_the_grown_weights(name, at):
    module, args, kwargs = build(name)
    size = DEEPER[name][1]
    model, _ = traced(name)
    grown = meristem.grow(model, {"layers": size}, at=at)
    big = deeper(name, size)
    big.load_state_dict(grown.module().state_dict(), strict=True)
    with torch.no_grad():
        expected, got = leaves(module(*args, **kwargs)), leaves(big(*args, **kwargs))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nanogpt", "bert", "gemma2", "convnext_hf"])
def test_every_new_weight_learns_within_two_steps(name):
    _, args, kwargs = build(name)
    model, _ = traced(name)
    grown = meristem.grow(model, targets(model, 1))
    module = grown.module()
    fresh = {n: p for n, p in module.named_parameters() if n in grown.plan.clones}
    assert fresh
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    alive: set[str] = set()
    for step in range(3):
        optimiser.zero_grad()
        torch.manual_seed(step)
        outputs = [t for t in leaves(module(*args, **kwargs)) if t.is_floating_point()]
        loss = sum((t * torch.randn_like(t)).mean() for t in outputs)
        loss.backward()
        alive |= {n for n, p in fresh.items() if p.grad is not None and bool(p.grad.any())}
        optimiser.step()
    # A bias of keys moves all scores of a row alike: it has no gradient in any model.
    assert all(n.endswith(("key.bias", "k_proj.bias")) for n in fresh.keys() - alive)


def test_dropouts_of_the_source_are_those_of_the_copy():
    model, _ = traced("nanogpt")
    grown = meristem.grow(model, {"layers": 3})
    # Three for each block, one for the embedding.
    assert [len(m.carrier.dropouts) for m in (model, grown)] == [1 + 3 * 2, 1 + 3 * 3]
    assert set(grown.carrier.dropouts.values()) == {0.1}


class Shared(nn.Module):
    """One layer applied three times (ALBERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = x + torch.relu(self.layer(self.norm(x)))
        return self.head(x)


def test_layers_that_share_their_weights_grow_by_a_gate_alone():
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    model = meristem.trace(Shared().eval(), (x,), None, None)
    grown = meristem.grow(model, {"layers": 4})
    assert algebra_error(model, grown, x) <= LIMIT
    extra = set(grown.state_dict()) - set(model.state_dict())
    assert len(extra) == 1
    assert next(iter(extra)).endswith("gate")
    with pytest.raises(NotPreserved, match=r'a new block takes a gate.*compensate="graph"'):
        meristem.grow(model, {"layers": 4}, compensate="weights")


def test_a_single_block_shares_what_other_modules_make():
    """The rotations of a stack stand beside it, whether or not a second block reads them."""
    torch.manual_seed(0)
    small = Decoder(Sizes(layers=1)).eval()
    tokens = torch.randint(0, 256, (2, 9))
    grown = meristem.grow(meristem.trace(small, (tokens,)), {"layers": 2})
    large = Decoder(Sizes(layers=2)).eval()
    large.load_state_dict(grown.state_dict(), strict=True)
    torch.testing.assert_close(large(tokens), small(tokens))


def test_a_sum_without_weights_is_no_layer():
    """Resampling spelled out, ``x + (y - x) * c``, looks like a residual block."""

    class Resampled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 3)
            self.register_buffer("c", torch.linspace(0.0, 1.0, 12))

        def forward(self, x):
            low = self.first(x)
            return self.last(low + (low.roll(1, 0) - low) * self.c)

    model = meristem.trace(Resampled(), (torch.randn(4, 8),), None, None)
    assert [d.kind for d in model.dimensions if d.kind == "layers"] == []


def test_the_source_is_untouched():
    model, inputs = traced("nanogpt")
    before = {n: t.clone() for n, t in model.carrier.tensors.items()}
    grown = meristem.grow(model, {"layers": 3})
    for t in grown.carrier.tensors.values():
        t.data.fill_(1.0)
    assert all(torch.equal(t, before[n]) for n, t in model.carrier.tensors.items())
    assert len(stacks(model)) == 1
    assert inputs


class Halves(nn.Module):
    """A reversible block: each half of the stream is moved by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        a = a + torch.tanh(self.f(b))
        return torch.cat([a, b + torch.tanh(self.g(a))], -1)


def test_a_block_that_starts_at_the_second_of_several_results():
    torch.manual_seed(0)
    x = torch.randn(3, 12)
    model = meristem.trace(
        nn.Sequential(Halves(), Halves(), nn.Linear(12, 5)).eval(), (x,), None, None
    )
    names = [d.name for d in stacks(model)]
    assert names
    for name in names:
        assert algebra_error(model, meristem.grow(model, {name: "+1"}), x) <= LIMIT
