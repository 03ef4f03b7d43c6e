"""Methods by name, on every model: exact in float64, and what defines each.

``copy`` and ``clone`` grow to whole multiples, the others to any size.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.methods import METHODS
from meristem.rewrite.request import by_name
from tests.e2e.measure import algebra_error, deployment_ratio, leaves
from tests.e2e.test_torch_zoo import boundary_of, free, kinds_of, traced
from tests.zoo import ZOO

LIMIT = 1e-10
QUICK = ("llama_tied", "lemon")
FACTOR = {"pair": "x1.5", "copy": "x2", "clone": "x2", "net2wider": "x1.5", "lemon": "x1.5"}
# What must be among the strategies; others stand in where norms, scores or tied tables need it.
MAIN = {"pair": "pair", "copy": "copy", "net2wider": "replicas", "lemon": "circular"}
# Copies alone, by model: what no copy preserves.
REFUSED = {
    "bloom": "sums over copies",  # slopes of the position bias are a stored table, one for each head
    "gpt_neox": "need a whole multiple",  # the rotated part of a head stays, the rest takes all
    "torch_encoder_bare": "sums over copies",  # the stream is an input, which is padded with zeros
}


class Convolutions(nn.Module):
    """Grouped and depthwise convolutions with batch norms, and a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(torch.relu(self.grouped(x))))
        return self.head(x.mean((2, 3)))


class TwoDecoders(nn.Module):
    """One encoder, two decoders, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8))
        self.first = nn.Sequential(nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, 3))
        self.second = nn.Sequential(nn.Linear(8, 10), nn.Sigmoid(), nn.Linear(10, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        return self.first(h), self.second(h)


OWN = {
    "convolutions": (Convolutions, (2, 3, 8, 8)),
    "two decoders": (TwoDecoders, (4, 6)),
}


def model_of(name: str) -> tuple[Any, list[torch.Tensor]]:
    if name not in OWN:
        model, args, kwargs = traced(name)
        return model, leaves(args, kwargs)
    torch.manual_seed(0)
    build, shape = OWN[name]
    x = torch.randn(*shape)
    return meristem.trace(build().eval(), (x,)), [x]


def requests(model: Any, factor: str) -> list[dict[str, str]]:
    """Every width kind alone, and all together."""
    kinds = [k for k in kinds_of(model) if k not in ("layers", "group")]
    alone = [dict.fromkeys(free(model, k), factor) for k in kinds]
    for k in ("rank", "width"):
        own = {by_name(d.name): factor for d in model.dimensions if d.kind == k and d.growable}
        alone += [own] if own else []
    together = {k: f for r in alone for k, f in r.items()}
    return [*alone, together]


EVERY = ("pair", "copy", "net2wider", "lemon")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((n, m) for n in OWN for m in EVERY),
        *(
            pytest.param(n, m, marks=() if (n, m) == QUICK else pytest.mark.full)
            for n in sorted(ZOO)
            for m in EVERY
        ),
    ],
)
def test_every_kind_alone_and_all_together(name: str, method: str) -> None:
    model, inputs = model_of(name)
    errors, taken, refused = {}, set(), []
    for request in requests(model, FACTOR[method]):
        policy = boundary_of(model, request)[0]
        try:
            grown = meristem.grow(model, request, method=method, boundary=policy)
        except NotPreserved as why:
            refused.append(str(why))
            continue
        errors["+".join(request)] = algebra_error(model, grown, *inputs)
        used = {s for c in grown.plan.changes for s in c.strategies}
        assert used == {"copy"} or method != "copy"
        taken |= used
    assert MAIN[method] in taken
    assert bool(refused) == (method == "copy" and name in REFUSED), refused
    assert all(REFUSED[name] in why for why in refused)
    assert max(errors.values()) <= LIMIT, errors


def test_pairs_are_equal_and_read_with_opposite_signs() -> None:
    model, _ = model_of("two decoders")
    grown = meristem.grow(model, {"mlp@second": 15}, method="pair").state_dict()
    up, bias, down = (grown[f"second.{n}"] for n in ("0.weight", "0.bias", "2.weight"))
    assert torch.equal(up[10:12], up[12:14])
    assert torch.equal(bias[10:12], bias[12:14])
    assert torch.equal(down[:, 10:12], -down[:, 12:14])
    assert down[:, 10:12].abs().min() > 0
    assert not down[:, 14].any(), "an odd unit has no partner"


def test_copies_tile_and_what_sums_them_is_shared() -> None:
    """HyperCloning's tiling (arXiv:2409.12903): rows repeated, columns repeated and divided."""
    model, _ = model_of("two decoders")
    old, new = (
        m.state_dict() for m in (model, meristem.grow(model, {"mlp@first": 36}, method="copy"))
    )
    assert torch.equal(new["first.0.weight"], old["first.0.weight"].repeat(3, 1))
    assert torch.equal(new["first.0.bias"], old["first.0.bias"].repeat(3))
    torch.testing.assert_close(new["first.2.weight"], old["first.2.weight"].repeat(1, 3) / 3)
    plan = meristem.plan(model, {"mlp@first": 36}, method="copy")
    assert plan.locked, "even copies stay equal under training, which the plan says"


def test_random_replicas_share_what_sums_them_unequally() -> None:
    """Net2WiderNet on two layers (arXiv:1511.05641): W1 by g, and W2's columns of a unit sum to its own."""
    model, _ = model_of("two decoders")
    grown = meristem.grow(model, {"mlp@first": 31}, method="net2wider", seed=3)
    old, new = model.state_dict(), grown.state_dict()
    up, was = new["first.0.weight"], old["first.0.weight"]
    g = [int((was == row).all(1).nonzero()[0, 0]) for row in up]
    assert g[:12] == list(range(12))
    assert len(set(g[12:])) > 5, "drawn at random"
    assert g[12:24] != list(range(12))
    assert torch.equal(new["first.0.bias"], old["first.0.bias"][g])
    down, before = new["first.2.weight"], old["first.2.weight"]
    sums = torch.zeros_like(before).index_add_(1, torch.tensor(g), down)
    torch.testing.assert_close(sums, before)
    twice = next(i for i in g if g.count(i) == 2)
    one, two = (down[:, j] / before[:, twice] for j in range(31) if g[j] == twice)
    assert (one - one[0]).abs().max() < 1e-5, "one share for a whole column"
    assert abs(one[0] - two[0]) > 1e-3, "and unequal ones for its replicas"
    other = meristem.grow(model, {"mlp@first": 31}, method="net2wider", seed=4).state_dict()
    assert not torch.equal(other["first.0.weight"], up)


def test_lemon_shares_entry_by_entry_and_pads_norms_by_the_mean() -> None:
    """LEMON (arXiv:2310.07999): circular copies, sum of shares W; LayerNorm's gain * sqrt(s), eps * s
    with s = d / D, and the padded coordinate of its writer is the mean of its rows."""
    model, _ = model_of("two decoders")
    old = model.state_dict()
    grown = meristem.grow(model, {"mlp@first": 30, "rank@": 13}, method="lemon")
    new = grown.state_dict()
    down, before = new["first.2.weight"], old["first.2.weight"]
    g = torch.arange(30) % 12
    torch.testing.assert_close(torch.zeros_like(before).index_add_(1, g, down), before)
    ratio = down / before[:, g]
    assert (ratio.std(0) > 1e-3).all(), "a share of its own for every entry"
    s = 8 / 13
    torch.testing.assert_close(new["encoder.3.weight"][:8], old["encoder.3.weight"] * s**0.5)
    torch.testing.assert_close(
        new["encoder.2.weight"][8:], old["encoder.2.weight"].mean(0).expand(5, -1)
    )
    assert any(f"becomes {1e-5 * s:.6g}" in row for row in grown.plan.constants)


def test_lemon_copies_whole_rounds_before_it_pads() -> None:
    """From 8 to 20 under a layer norm: 16 copies, then 4 means, with s = 16 / 20, in two stages."""
    model, inputs = model_of("two decoders")
    old = model.state_dict()
    grown = meristem.grow(model, {"rank@": "x2.5", "mlp@first": 30}, method="lemon")
    assert [(c.before, c.after) for c in grown.plan.changes if c.kind == "rank"] == [
        (8, 16),
        (16, 20),
    ]
    assert grown.plan.sizes == {"rank": 20, "mlp@first": 30}
    assert algebra_error(model, grown, *inputs) <= 1e-10
    new = grown.state_dict()
    torch.testing.assert_close(new["encoder.3.weight"][:8], old["encoder.3.weight"] * 0.8**0.5)
    rows, before = new["encoder.2.weight"], old["encoder.2.weight"]
    torch.testing.assert_close(rows[:16], before.repeat(2, 1))
    torch.testing.assert_close(rows[16:], before.mean(0).expand(4, -1))
    assert any(f"becomes {1e-5 * 0.8:.6g}" in row for row in grown.plan.constants)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json())).state_dict()
    assert all(torch.equal(w, again[n]) for n, w in new.items())
    odd = meristem.grow(model, {"rank@": 13}, method="lemon")
    assert not odd.plan.stages, "below twice its size there is nothing to copy first"


def test_noise_of_clones_cancels() -> None:
    """HyperCloning's tiling with noise: the columns of a unit and its copies sum to its own."""
    model, _ = model_of("two decoders")
    old = model.state_dict()["first.2.weight"]
    new = meristem.grow(model, {"mlp@first": 24}, method="clone:noise=0.3").state_dict()
    down = new["first.2.weight"]
    torch.testing.assert_close(down[:, :12] + down[:, 12:], old)
    assert (down[:, :12] - old / 2).abs().min() > 0
    for text, why in (
        ("pair:noise=0.1", "the method pair takes no noise; these do: copy, clone, net2wider"),
        ("clone:noise=-1", "the options of clone are unequal=0 and noise=0, from 0 to 10"),
        ("clone:snr=10", "the options of clone are unequal=0"),
        ("clone:noise=loud", "the options of clone are unequal=0"),
        ("clone:noise", "'noise' is no option; give name=value"),
        ("clone+pair", "names two methods of width"),
        ("stack:order=random", "the options of stack are order=whole, interleave, middle, overlap"),
        ("identity:order=whole", "the options of identity are insides=copied, fresh"),
        ("identity:insides=odd", "the options of identity are insides=copied, fresh"),
        ("learned:steps=1.5", r"the options of learned are steps=100 \(whole\)"),
        ("pair+stack", "stack is a method for layers, and the request names none"),
        ("identity", "identity is a method for layers, and the request names none"),
    ):
        with pytest.raises(MeristemError, match=why):
            meristem.plan(model, {"mlp@first": 24}, method=text)


@pytest.mark.parametrize(
    "method", ["lemon", *(pytest.param(m, marks=pytest.mark.full) for m in ("pair", "net2wider"))]
)
@pytest.mark.parametrize(
    "name",
    [
        "two decoders",
        *(pytest.param(n, marks=pytest.mark.full) for n in ("convolutions", "nanogpt")),
    ],
)
def test_new_weights_train(name: str, method: str) -> None:
    """Every new weight has a gradient within two steps, and no two units stay equal."""
    model, _ = model_of(name)
    request = requests(model, "x2")[-1]
    policy = boundary_of(model, request)[0]
    grown = meristem.grow(model, request, method=method, boundary=policy)
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    assert report.levels["training"].word not in ("differs", "not checked"), str(report)
    assert not grown.plan.saddles
    assert not grown.plan.locked


def test_pairs_have_gradients_from_the_start() -> None:
    model, (x,) = model_of("two decoders")
    module = meristem.grow(model, {"mlp@second": 14}, method="pair").module()
    module(x)[1].square().sum().backward()
    grads = {n: p.grad for n, p in module.named_parameters()}
    up, down = grads["second.0.weight"][10:], grads["second.2.weight"][:, 10:]
    assert up.abs().min() > 0
    assert down.abs().min() > 0
    torch.testing.assert_close(up[:2], -up[2:])  # so that the halves part


@pytest.mark.parametrize(
    "method",
    [m if m in ("pair", "lemon") else pytest.param(m, marks=pytest.mark.full) for m in FACTOR],
)
def test_a_file_grows_by_the_same_method(tmp_path: Any, method: str) -> None:
    model, inputs = model_of("convolutions")
    path = model.save(tmp_path / "small.onnx")
    file = meristem.load(path)
    plan = meristem.plan(model, requests(model, FACTOR[method])[-1], method=method)
    big = meristem.grow(file, plan).save(tmp_path / "big.onnx")
    with torch.no_grad():
        reference = [[model.module().double()(inputs[0].double()).numpy()]]
    assert deployment_ratio(path, big, reference, [inputs], optimised=True) <= 4


def test_a_method_that_does_not_apply_says_what_would() -> None:
    model, _ = model_of("two decoders")
    with pytest.raises(
        NotPreserved, match=r"need a whole multiple; ask for 24, or take method=.lemon"
    ):
        meristem.grow(model, {"mlp@first": 18}, method="copy")
    with pytest.raises(MeristemError, match="method='lottery' is not known; choose from preserve"):
        meristem.plan(model, {"mlp": "x2"}, method="lottery")
    with pytest.raises(MeristemError, match="gives noise twice; give it once"):
        meristem.plan(model, {"mlp": "x2"}, method="clone:noise=0.1,noise=0.9")


def test_fpi_copies_through_norms_and_says_so() -> None:
    """bert2BERT's partial copies: exact but for the norm, whose statistics weigh coordinates unequally."""
    model, (x,) = model_of("two decoders")
    exact = meristem.grow(model, {"mlp": "x1.5"}, method="fpi")
    assert not exact.plan.approximate
    assert algebra_error(model, exact, x) <= LIMIT
    assert exact.plan.locked, "even shares"
    grown = meristem.grow(model, {"rank@": 12}, method="fpi")
    (why,) = grown.plan.approximate
    assert "normalises coordinates that are not copied equally often" in why
    wide = x.double()
    with torch.no_grad():
        got, expected = (m.module().double()(wide)[0] for m in (grown, model))
    report = meristem.verify(model, grown, runtime="torch", inputs=[(x,)])
    verdict = report.levels["algebra"]
    assert verdict.word == "approximate"
    errors = {m.what.split()[0]: m.error for m in verdict.measures}
    assert float((got - expected).abs().max()) in [
        pytest.approx(e, rel=1e-6) for e in errors.values()
    ]
    # By hand: h_g with g, then a layer norm over 12 entries, then columns divided by their number.
    stored = {n: t.double() for n, t in model.state_dict().items()}
    rows = grown.state_dict()["encoder.2.weight"].double()
    g = [int((stored["encoder.2.weight"] == r).all(1).nonzero()[0, 0]) for r in rows]
    h = torch.nn.functional.gelu(wide @ stored["encoder.0.weight"].T + stored["encoder.0.bias"])
    h = (h @ stored["encoder.2.weight"].T + stored["encoder.2.bias"])[:, g]
    h = torch.nn.functional.layer_norm(
        h, (12,), stored["encoder.3.weight"][g], stored["encoder.3.bias"][g], 1e-5
    )
    counts = torch.tensor([g.count(i) for i in g])
    h = torch.nn.functional.silu(
        h @ (stored["first.0.weight"][:, g] / counts).T + stored["first.0.bias"]
    )
    by_hand = h @ stored["first.2.weight"].T + stored["first.2.bias"]
    torch.testing.assert_close(got, by_hand, rtol=0, atol=1e-6)
    assert (got - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    "method",
    [m for m, of in METHODS.items() if (of.preserves or m == "fuse") and not of.batches],
)
def test_every_method_is_exact_where_it_is_accepted(method: str) -> None:
    model, inputs = model_of("two decoders")
    accepted = 0
    for request in requests(model, "x2"):
        try:
            grown = meristem.grow(model, request, method=method)
        except NotPreserved:
            continue
        accepted += 1
        assert algebra_error(model, grown, *inputs) <= LIMIT
    assert accepted
