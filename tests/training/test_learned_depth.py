"""LiGO in depth: every block a learned combination of the old ones, folded into plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.combine import counts, is_depth, sums
from meristem.rewrite.errors import CarrierError, MeristemError, SizeError
from meristem.rewrite.lift import copies
from meristem.rewrite.packed import pack, unpack
from tests.e2e.measure import run
from tests.e2e.test_torch_zoo import traced


class Block(nn.Module):
    def __init__(self, d: int, units: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, units), nn.Linear(units, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 5)
        self.blocks = nn.ModuleList(Block(6, 4) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


torch.manual_seed(0)
X, Y = torch.randn(64, 3), torch.randint(0, 5, (64,))
BOTH: dict[str, int | str] = {"layers": 3, "mlp": 7}


def loss(module: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(module(X), Y)


def net(layers: int = 2) -> Any:
    torch.manual_seed(1)
    return meristem.trace(Net(layers).eval(), (X[:4],))


def measured(model: Any) -> float:
    with torch.no_grad():
        return float(loss(model.module()))


def depths(model: Any, rows: int) -> dict[str, np.ndarray]:
    """Every D by its kind of tensor."""
    found = {k: m for k, m in model.plan.learned.items() if is_depth(k)}
    return {k.split("|")[2]: unpack(m, (rows, -1)) for k, m in found.items()}


def test_one_hot_rows_are_a_stack() -> None:
    """The start is the order of StackBERT, so without noise and steps nothing but the copies is new."""
    model = net(3)
    start = meristem.grow(model, {"layers": 5}, method="learned:steps=0,noise=0", loss=loss)
    stack = meristem.grow(model, {"layers": 5}, method="stack")
    ours, theirs = start.state_dict(), stack.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(w, theirs[n]) for n, w in ours.items())
    for d in depths(start, 5).values():
        np.testing.assert_array_equal(d, np.eye(3)[[0, 1, 2, 0, 1]])
    # Other one-hot rows are other orders.
    (plan,) = start.plan.stages[1:]
    rows = [0, 0, 1, 1, 2]
    plan.maps = {k: pack(np.eye(3)[rows]) for k in plan.maps}
    spread = meristem.grow(model, start.plan).state_dict()
    other = meristem.grow(model, {"layers": 5}, method="stack:order=interleave").state_dict()
    assert all(torch.equal(w, spread[n]) for n, w in other.items())


@pytest.mark.parametrize(
    "method",
    [
        "learned:steps=30,rate=0.02",
        pytest.param("learned:tied=1,steps=30,rate=0.02", marks=pytest.mark.full),
    ],
)
def test_learning_lowers_the_loss(method: str) -> None:
    model = net()
    start = meristem.grow(model, {"layers": 4}, method="learned:steps=0", loss=loss)
    grown = meristem.grow(model, {"layers": 4}, method=method, loss=loss)
    assert measured(grown) < measured(start) - 0.01
    assert len(grown.plan.learned) == (1 if "tied" in method else 5)
    assert len(grown.plan.learned) == (1 if "tied" in method else 5)
    again = meristem.grow(model, {"layers": 4}, method=method, loss=loss).state_dict()
    assert all(torch.equal(w, again[n]) for n, w in grown.state_dict().items())
    report = meristem.verify(model, grown, runtime="torch", inputs=[(X[:4],)])
    with torch.no_grad():
        got, old = (m.module().double()(X[:4].double()) for m in (grown, model))
    verdict = report.levels["algebra"]
    assert report.ok, str(report)
    assert verdict.word == "approximate"
    error = float((got - old).abs().max())
    assert verdict.measures[0].error == pytest.approx(error, rel=1e-4)
    assert report.levels["training"].word == "noise-floor", "every new block learns, none is locked"


def test_weights_are_sums_by_hand() -> None:
    """W'_l = B_out (sum_j D_lj W_j) A_in^t, with one D for what one module reads with the same sizes."""
    model = net()
    grown = meristem.grow(model, BOTH, method="learned:steps=5,rate=0.1", loss=loss)
    old, new = model.state_dict(), grown.state_dict()
    d = depths(grown, 3)
    assert set(d) == {"0.norm 6", "0.up 4x6", "0.up 4", "0.down 4x6", "0.down 6"}
    for row in range(3):
        key = f"0|mlp@blocks.{row}"
        c = unpack(grown.plan.learned[key], (3, 4))
        write = np.vstack([np.eye(4), c])
        read = write / copies(4, 7, key)

        def summed(kind: str, name: str, row: int = row) -> np.ndarray:
            rows = [old[f"blocks.{j}.{name}"].double().numpy() for j in range(2)]
            return sum(f * w for f, w in zip(d[kind][row], rows, strict=True))

        by_hand = {
            "norm.weight": summed("0.norm 6", "norm.weight"),
            "norm.bias": summed("0.norm 6", "norm.bias"),
            "up.weight": write @ summed("0.up 4x6", "up.weight"),
            "up.bias": write @ summed("0.up 4", "up.bias"),
            "down.weight": summed("0.down 4x6", "down.weight") @ read.T,
            "down.bias": summed("0.down 6", "down.bias"),
        }
        for name, expected in by_hand.items():
            got = new[f"blocks.{row}.{name}"].numpy()
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_plan_serves_the_file(tmp_path: Path) -> None:
    model = net()
    plan = meristem.plan(model, BOTH, method="learned:steps=5,rate=0.05", loss=loss)
    assert "blocks of layers@blocks are learned combinations of its first 2" in plan.approximate
    back = meristem.Plan.from_json(plan.to_json())
    assert back == plan
    grown = meristem.grow(model, back)
    assert "stage 2 of 2" in grown.plan.explain()
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    big = meristem.grow(file, back)
    ((got,),) = run(big.save(tmp_path / "big.onnx"), [[X[:4]]], optimised=False)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), grown.module()(X[:4]))
    report = meristem.verify(file, big)
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"


def test_what_is_asked_otherwise() -> None:
    model = net()
    exact = meristem.grow(model, BOTH, method="learned:steps=0,noise=0+identity", loss=loss)
    assert not exact.plan.stages
    with torch.no_grad():
        torch.testing.assert_close(exact.module()(X), model.module()(X))
    with pytest.raises(SizeError, match="learned says itself where copies go"):
        meristem.plan(model, {"layers": 4}, method="learned", at="spread", loss=loss)
    with pytest.raises(MeristemError, match="learns on batches: give loss="):
        meristem.plan(model, {"layers": 4}, method="learned")
    plan = meristem.plan(model, {"layers": 4}, method="learned:steps=0", loss=loss)
    plan.stages[1].maps.popitem()
    with pytest.raises(CarrierError, match=r"does not say how .* is combined"):
        meristem.grow(model, plan)
    with pytest.raises(CarrierError, match="this model has no such stack of that size"):
        counts({"depth|layers@blocks|x": pack(np.zeros(5))}, model.stacks)
    larger = meristem.plan(model, {"layers": 4, "mlp": 5}, method="learned:steps=0", loss=loss)
    larger.stages = larger.stages[1:]
    with pytest.raises(CarrierError, match="the plan has 1 stages, and this model takes 2"):
        meristem.grow(model, larger)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gemma2", "t5", "swin", "llama"])
def test_real_models(name: str) -> None:
    """Alternating blocks are summed within their phase; stacks of one model each have matrices of their
    own."""
    model, args, kwargs = traced(name)

    def size(module: nn.Module) -> torch.Tensor:
        out = module(*args, **kwargs)
        first = out if isinstance(out, torch.Tensor) else next(iter(out.values()))
        return first.square().mean()

    grown = meristem.grow(model, {"layers": "x2"}, method="learned:steps=1", loss=size)
    plan = grown.plan
    assert {k.split("|")[1] for k in plan.learned} == set(model.stacks)
    middle = meristem.grow(model, plan.stages[0])
    for name_, stack in middle.stacks.items():
        before = model.stacks[name_].size
        for s in sums(stack, before, tied=False):
            assert all(j % stack.period == s.row % stack.period for j in s.columns)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
