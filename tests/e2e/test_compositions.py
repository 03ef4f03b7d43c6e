"""Methods together: in one call, and one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError, NotPreserved, SizeError
from tests.e2e.measure import algebra_error, run
from tests.e2e.test_methods import model_of
from tests.passes.mixtures import Mixture
from tests.training.test_learned_depth import Block, Net, X, net
from tests.verify.models import spoil

LIMIT = 1e-10


class Decoder(nn.Module):
    """Tokens to scores, blocks with the norm first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                8, 2, 12, 0.0, batch_first=True, norm_first=True, activation="gelu"
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


def decoder() -> Any:
    torch.manual_seed(0)
    return meristem.trace(Decoder().eval(), (TOKENS,))


@pytest.mark.parametrize(
    ("method", "request_", "options"),
    [
        ("lemon+cancel", {"hidden": 13, "mlp": 20, "heads": 3, "layers": 4}, {}),
        pytest.param(
            "pair+identity", {"mlp": 16, "layers": 3}, {"at": [0]}, marks=pytest.mark.full
        ),
        pytest.param(
            "masked+identity", {"hidden": 12, "mlp": 16, "layers": 3}, {}, marks=pytest.mark.full
        ),
        pytest.param(
            "net2wider+upcycle:top=2", {"mlp": 18, "experts": 4}, {}, marks=pytest.mark.full
        ),
        pytest.param(
            "lemon+cancel+upcycle",
            {"mlp": 18, "layers": 3, "experts@blocks.0": 4, "experts": 2},
            {"at": [1]},
            marks=pytest.mark.full,
        ),
        pytest.param(
            "clone:noise=0.2+identity",
            {"mlp": "x2", "heads": "x2", "layers": "x2"},
            {"at": "spread"},
            marks=pytest.mark.full,
        ),
        pytest.param(
            "lemon",
            {"vocabulary": "%8", "hidden": 13},
            {"boundary": "crop"},
            marks=pytest.mark.full,
        ),
    ],
)
def test_in_one_call(method: str, request_: dict[str, Any], options: dict[str, Any]) -> None:
    model = decoder()
    grown = meristem.grow(model, request_, method=method, **options)
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    back = meristem.Plan.from_json(grown.plan.to_json())
    again = meristem.grow(model, back)
    ours, theirs = grown.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_stages_are_growths_one_after_another(tmp_path: Path) -> None:
    """Layers first, then mixtures of all their MLPs: a new block's has as many experts as the block's that
    it is a copy of."""
    model = net()
    sizes: dict[str, int | str] = {"layers": 4, "experts@blocks.0": 4, "experts": 2}
    grown = meristem.grow(model, sizes, method="upcycle", at="spread")
    layers, mixtures = grown.plan.stages
    assert (layers.method, mixtures.method) == ("preserve", "upcycle")
    assert mixtures.sizes == {f"experts@blocks.{i}": n for i, n in enumerate((4, 4, 2, 2))}
    assert grown.plan.sizes == {"layers@blocks": 4, "experts@blocks.0": 4, "experts@blocks.1": 2}
    at = model
    for stage in (layers, mixtures):
        at = meristem.grow(at, stage)
    ours, theirs = grown.state_dict(), at.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert set(grown.plan.added) == {*layers.added, *mixtures.added}
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    big = meristem.grow(file, meristem.Plan.from_json(grown.plan.to_json()))
    assert meristem.verify(file, big).ok
    ((got,),) = run(big.save(tmp_path / "big.onnx"), [[X[:4]]], optimised=False)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), grown.module()(X[:4]))


class Mixed(nn.Module):
    """Tokens to scores, each block a mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(2))
        self.blocks = nn.ModuleList(Mixture("softmax_topk_normed", "chosen") for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)


@pytest.mark.full
def test_more_experts_in_more_layers(tmp_path: Path) -> None:
    tokens = torch.arange(9) % 11
    torch.manual_seed(0)
    model = meristem.trace(Mixed().eval(), (tokens,))
    sizes: dict[str, int | str] = {"experts": 8, "expert_mlp": 12, "hidden": 9, "layers": 3}
    grown = meristem.grow(model, sizes)
    assert not grown.plan.stages, "blocks are copied with the experts that they have by then"
    assert algebra_error(model, grown, tokens) <= LIMIT
    assert grown.state_dict()["blocks.2.up"].shape == (8, 12, 9)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    assert meristem.verify(file, meristem.grow(file, grown.plan)).ok


def test_growth_in_stages_is_checked_as_a_whole() -> None:
    model = net()
    grown = meristem.grow(model, {"layers": 3, "experts": 2}, method="upcycle")
    assert algebra_error(model, grown, X[:4]) <= LIMIT
    report = meristem.verify(model, grown, runtime="torch")
    assert [v.word for v in report.levels.values()] == ["noise-floor"] * 3, str(report)
    spoil(grown, next(n for n in grown.carrier.tensors if n.startswith("blocks.0.")), by=1e-3)
    wrong = meristem.verify(model, grown, runtime="torch")
    assert wrong.levels["algebra"].word == "differs"
    grown.plan.stages.pop(0)
    assert "does not start from this model" in str(meristem.verify(model, grown, runtime="torch"))


@pytest.mark.parametrize(
    ("first", "second", "method", "why"),
    [
        (
            {"mlp": 7},
            {"layers": 3},
            "cancel",
            "blocks.0.up.weight has (4, 6) in the source and does not grow",
        ),
        (
            {"layers": 3},
            {"layers": 4},
            "preserve",
            "grows layers@blocks from 3, but the source has 2",
        ),
        ({"mlp": 7}, {"experts": 4}, "upcycle", "has blocks.0.experts.0.up.weight with (7, 6)"),
        ({"layers": 3}, {"mlp@blocks.0": 7}, "preserve", "of the grown model comes from blocks.2."),
    ],
)
def test_a_plan_that_starts_from_another_model(
    first: dict[str, Any], second: dict[str, Any], method: str, why: str
) -> None:
    """What was grown twice is held against the first model by its outputs alone."""
    model = net()
    middle = meristem.grow(model, first)
    grown = meristem.grow(middle, second, method=method)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.headline == "the same function (as measured; not checked: algebra, training)"
    assert why in report.levels["algebra"].reason
    assert report.levels["training"].reason == report.levels["algebra"].reason
    assert meristem.verify(middle, grown, runtime="torch").headline == "the same function"
    spoil(grown, "stem.weight")
    wrong = meristem.verify(middle, grown, runtime="torch")
    assert wrong.levels["algebra"].word == "differs"
    assert "stored stem.weight" in wrong.levels["algebra"].reason


def test_a_plan_of_a_file_that_starts_from_another(tmp_path: Path) -> None:
    file = meristem.load(net().save(tmp_path / "small.onnx"))
    grown = meristem.grow(meristem.grow(file, {"mlp": 7}), {"layers": 3})
    report = meristem.verify(file, grown)
    assert report.ok, str(report)
    assert "does not start from this model" in report.levels["algebra"].reason


def test_an_optimizer_goes_on_through_stages() -> None:
    """Its state is what it becomes when the stages are carried out one by one."""
    torch.manual_seed(0)
    small = Net().eval()
    optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        small(X).square().mean().backward()
        optimizer.step()
    model = meristem.trace(small, (X[:4],))
    grown = meristem.grow(model, {"layers": 3, "mlp": 7, "experts": 2}, method="lemon+upcycle")
    module = grown.module()
    at, last, states = model, small, optimizer
    for stage in grown.plan.stages:
        at = meristem.grow(at, stage)
        source, last = last, at.module()
        states = at.optimizer(states, module=last, source=source)
    whole = grown.optimizer(optimizer, module=module)
    for (name, p), (_, q) in zip(module.named_parameters(), last.named_parameters(), strict=True):
        ours, theirs = whole.state.get(p, {}), states.state.get(q, {})
        assert ours.keys() == theirs.keys(), name
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), name
    carried, stored = grown.carry(small.state_dict()), grown.state_dict()
    assert carried.keys() == stored.keys()
    for name, w in stored.items():
        torch.testing.assert_close(carried[name], w)
    with pytest.raises(MeristemError, match="2 stages"):
        meristem.training.separate(grown, module, whole)


class Viewer(nn.Module):
    """Square images to scores, by patches with places, blocks with the norm first."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.places = nn.Parameter(torch.randn(1, (side // 4) ** 2, 8))
        self.blocks = nn.ModuleList(Block(8, 12) for _ in range(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def viewer() -> Any:
    torch.manual_seed(0)
    return meristem.trace(Viewer(8).eval(), (torch.randn(2, 3, 8, 8),))


@pytest.mark.parametrize(
    ("method", "rest", "request_"),
    [
        ("interpolate+lemon+cancel", "lemon+cancel", {"hidden": 12, "mlp": 20, "layers": 3}),
        pytest.param(
            "upcycle+interpolate",
            "upcycle",
            {"layers": 3, "experts": 2},
            marks=pytest.mark.full,
        ),
        pytest.param("masked+interpolate", "masked", {"mlp": 16}, marks=pytest.mark.full),
        pytest.param(
            "interpolate+stack", "stack", {"mlp": 16, "layers": 4}, marks=pytest.mark.full
        ),
    ],
)
def test_images_with_other_growth(
    method: str, rest: str, request_: dict[str, Any], tmp_path: Path
) -> None:
    """As in two calls, images first; the error that is reported is that of both together."""
    model = viewer()
    grown = meristem.grow(model, {"image": 16, **request_}, method=method)
    larger = meristem.grow(model, {"image": 16}, method="interpolate")
    both = meristem.grow(larger, request_, method=rest)
    ours, theirs = grown.state_dict(), both.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"
    assert "images grow" in report.levels["algebra"].reason
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    big = meristem.grow(file, meristem.Plan.from_json(grown.plan.to_json()))
    assert meristem.verify(file, big).ok
    image = torch.randn(2, 3, 16, 16)
    ((got,),) = run(big.save(tmp_path / "big.onnx"), [[image]], optimised=False)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), grown.module()(image))


def test_masks_of_a_growth_in_stages_move() -> None:
    grown = meristem.grow(viewer(), {"image": 16, "mlp": 16}, method="masked+interpolate")
    with pytest.raises(NotPreserved, match="carry it to 1 with anneal"):
        meristem.plan(grown, {"mlp": 20})
    whole = grown.anneal(1)
    assert [p.method for p in whole.plan.stages] == ["interpolate", "masked:mask=1.0"]
    assert "growth_mask" not in whole.state_dict()
    assert meristem.plan(whole, {"mlp": 20}).changes


def test_what_does_not_go_together() -> None:
    model = viewer()
    with pytest.raises(NotPreserved, match="mixtures would be made of what stands behind masks"):
        meristem.plan(net(), {"mlp": 7, "layers": 3, "experts": 4}, method="masked+upcycle")
    for sizes, options, why in (
        ({"image": 16, "mlp": 24}, {"method": "fuse+interpolate", "models": [model]}, "images grow before"),
        ({"image": 16, "mlp": 16}, {"method": "interpolate", "boundary": "crop"}, "keeps the interface"),
        ({"image": 18, "mlp": 16}, {"method": "interpolate"}, "it is read in patches of 4"),
        ({"image": 16, "mlp": 3}, {"method": "interpolate"}, "cannot become 3"),
    ):  # fmt: skip
        with pytest.raises(SizeError, match=why):
            meristem.plan(model, sizes, **options)


@pytest.mark.full
def test_one_after_another() -> None:
    """Ten methods in a row; the approximate ones start a new function."""
    model = decoder()
    for method, request in (
        ("preserve", {"mlp": "x1.5"}),
        ("lemon", {"hidden": 13}),
        ("net2wider", {"heads": 3}),
        ("cancel", {"layers": 3}),
        ("pair", {"mlp": "+6"}),
        ("fuse", {"mlp": "x2"}),
        ("masked", {"mlp": "+4"}),
    ):
        grown = meristem.grow(model, request, method=method)
        assert algebra_error(model, grown, TOKENS) <= LIMIT, method
        model = grown if method != "masked" else grown.anneal(1)
    for method, request in (
        ("stack", {"layers": 6}),
        ("split", {"layers": 8}),
        ("rms", {"mlp": "x1.5"}),
        ("aki", {"mlp": "x1.5"}),
        ("fpi", {"hidden": "x1.5"}),
    ):
        grown = meristem.grow(model, request, method=method)
        assert grown.plan.approximate, method
        model = grown
    last = meristem.grow(model, {"mlp": "%8", "layers": 9})
    assert algebra_error(model, last, TOKENS) <= LIMIT


def test_rounds_of_copies_beside_layers_at_chosen_places() -> None:
    """Places are for the layers; the rounds that come before them take none."""
    model = decoder()
    grown = meristem.grow(model, {"hidden": "x2.5", "layers": 4}, method="lemon", at="spread")
    sizes = [(c.before, c.after) for c in grown.plan.changes if c.kind == "hidden"]
    hidden = sizes[0][0]
    assert sizes == [(hidden, 2 * hidden), (2 * hidden, 5 * hidden // 2)]
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json())).state_dict()
    assert all(torch.equal(w, again[n]) for n, w in grown.state_dict().items())


def test_net2deeper_with_width() -> None:
    model, inputs = model_of("convolutions")
    (site,) = [n for n in model.sites if "grouped" in n]
    request = {site: 2, "channels": "x1.5"}
    grown = meristem.grow(model, request, method="lemon+net2deeper")
    assert algebra_error(model, grown, *inputs) <= LIMIT


def test_approximate_depth_and_exact_width_say_what_is_what() -> None:
    model = decoder()
    grown = meristem.grow(model, {"mlp": "x1.5", "layers": 4}, method="lemon+stack")
    (why,) = grown.plan.approximate
    assert "in the order" in why
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"


@pytest.mark.parametrize("depth", ["stack", "split", "split:by=sublayer,scalars=explicit"])
@pytest.mark.parametrize(
    "width", ["preserve", *(pytest.param(w, marks=pytest.mark.full) for w in ("pair", "lemon"))]
)
def test_width_preserves_what_the_deeper_model_computes(width: str, depth: str) -> None:
    """Also where no norm reads what the last block writes, and new coordinates could be anything there."""
    torch.manual_seed(0)
    module = Net()
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    x = X[:4].double()
    model = meristem.trace(module.double().eval(), (x,))
    deeper = meristem.grow(model, {"layers": 4}, method=depth)
    both = meristem.grow(model, {"layers": 4, "hidden": "x2"}, method=f"{width}+{depth}")
    torch.testing.assert_close(both.module()(x), deeper.module()(x), rtol=LIMIT, atol=LIMIT)
    assert meristem.verify(model, both, runtime="torch").ok
    again = meristem.grow(model, meristem.Plan.from_json(both.plan.to_json()))
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in both.state_dict().items())


def test_stages_of_rounded_weights_are_as_planned() -> None:
    """What is fresh in a later stage is drawn from numbers that an earlier one has rounded."""
    torch.manual_seed(0)
    model = meristem.trace(Net().bfloat16().eval(), (X[:4].bfloat16(),))
    request = {"mlp": 7, "layers": 3, "experts": 4}
    grown = meristem.grow(model, request, method="identity:insides=fresh+upcycle")
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    spoil(
        grown, next(n for n in grown.state_dict() if "experts.0" in n and n.endswith("weight")), 0.1
    )
    assert not meristem.verify(model, grown, runtime="torch").ok


def test_new_blocks_may_hold_fresh_weights() -> None:
    """What is zero stays zero, gains and biases are copies, matrices are drawn like their source."""
    model = decoder()
    grown = meristem.grow(model, {"layers": 3}, method="identity:insides=fresh", seed=3)
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    new, old = grown.state_dict(), model.state_dict()
    up, was = new["blocks.2.linear1.weight"], old["blocks.1.linear1.weight"]
    assert not torch.equal(up, was)
    assert up.std() == pytest.approx(float(was.std()), rel=0.3)
    assert torch.equal(new["blocks.2.norm1.weight"], old["blocks.1.norm1.weight"])
    assert not new["blocks.2.linear2.weight"].any()
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    other = meristem.grow(model, {"layers": 3}, method="identity:insides=fresh", seed=4)
    assert not torch.equal(other.state_dict()["blocks.2.linear1.weight"], up)
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json()))
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in new.items())
