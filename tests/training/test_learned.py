"""LiGO: maps that start from replicas, learn on batches, and are folded into plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError, OutputError
from meristem.rewrite.lift import copies, replicas
from meristem.rewrite.packed import unpack
from tests.e2e.measure import algebra_error


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.up, self.down, self.head = nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x)))))


torch.manual_seed(0)
X, Y = torch.randn(64, 3), torch.randint(0, 5, (64,))
REQUEST: dict[str, int | str] = {"hidden": 10, "mlp": 7}


def loss(module: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(module(X), Y)


def net() -> Any:
    torch.manual_seed(1)
    return meristem.trace(Net().eval(), (X[:4],))


def measured(model: Any) -> float:
    with torch.no_grad():
        return float(loss(model.module()))


def test_maps_start_from_replicas() -> None:
    model = net()
    start = meristem.grow(model, REQUEST, method="learned:steps=0,noise=0", loss=loss)
    same = meristem.grow(model, REQUEST, method="fpi")
    for name, w in same.state_dict().items():
        torch.testing.assert_close(start.state_dict()[name], w)
    exact = meristem.grow(model, {"mlp": 7}, method="learned:steps=0,noise=0", loss=loss)
    assert algebra_error(model, exact, X[:4]) <= 1e-10, "replicas, and their sums shared"


@pytest.mark.parametrize("rank", [0, 2])
def test_learning_lowers_the_loss(rank: int) -> None:
    model = net()
    method = f"learned:steps=40,rate=0.02,rank={rank}"
    start = meristem.grow(model, REQUEST, method=f"learned:steps=0,rank={rank}", loss=loss)
    grown = meristem.grow(model, REQUEST, method=method, loss=loss)
    assert measured(grown) < measured(start) - 0.01
    again = meristem.grow(model, REQUEST, method=method, loss=loss)
    for name, w in grown.state_dict().items():
        assert torch.equal(again.state_dict()[name], w), "nothing is drawn twice"
    difference = np.linalg.svd(_map(grown, "0|hidden", 6, 10) - _map(start, "0|hidden", 6, 10))[1]
    assert (difference > 1e-9).sum() == (rank or 4)
    assert not grown.plan.locked


def _map(model: Any, key: str, old: int, new: int) -> np.ndarray:
    return unpack(model.plan.maps[key], (new - old, old))


def test_weights_are_products_by_hand() -> None:
    """W' = B_out W A_in^t with B = [I; C] and A = B / m, biases and gains B b: one C for each dimension."""
    model = net()
    grown = meristem.grow(model, REQUEST, method="learned:steps=5,rate=0.1", loss=loss)
    old, new = model.state_dict(), grown.state_dict()
    hidden = np.vstack([np.eye(6), _map(grown, "0|hidden", 6, 10)])
    mlp = np.vstack([np.eye(4), _map(grown, "0|mlp", 4, 7)])
    assert len(grown.plan.maps) == 2
    assert abs(hidden[6:] - np.eye(6)[replicas(6, 4, "0|hidden")]).max() > 0.1
    read_hidden = hidden / copies(6, 10, "0|hidden")
    read_mlp = mlp / copies(4, 7, "0|mlp")
    by_hand = {
        "stem.weight": hidden @ old["stem.weight"].numpy(),
        "stem.bias": hidden @ old["stem.bias"].numpy(),
        "norm.weight": hidden @ old["norm.weight"].numpy(),
        "up.weight": mlp @ old["up.weight"].numpy() @ read_hidden.T,
        "up.bias": mlp @ old["up.bias"].numpy(),
        "down.weight": hidden @ old["down.weight"].numpy() @ read_mlp.T,
        "head.weight": old["head.weight"].numpy() @ read_hidden.T,
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(new[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_plan_serves_the_file_and_the_error_is_reported(tmp_path: Path) -> None:
    model = net()
    plan = meristem.plan(model, REQUEST, method="learned:steps=5", loss=loss)
    assert plan.approximate
    back = meristem.Plan.from_json(plan.to_json())
    assert back == plan
    grown = meristem.grow(model, back)
    report = meristem.verify(model, grown, runtime="torch", inputs=[(X[:4],)])
    assert report.ok, str(report)
    with torch.no_grad():
        got, old = (m.module().double()(X[:4].double()) for m in (grown, model))
    assert report.levels["algebra"].word == "approximate"
    error = report.levels["algebra"].measures[0].error
    assert error == pytest.approx(float((got - old).abs().max()), rel=1e-4)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    big = meristem.grow(file, back)
    for name, w in grown.state_dict().items():
        assert np.array_equal(big.state_dict()[name], w.numpy()), name
    assert meristem.verify(file, big).ok


@pytest.mark.full
class Averaged(Net):
    """The mean of the stream is an output, so the stream itself cannot be a combination."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x = self.norm(self.stem(x))
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(x), x.mean(-1)


def test_axes_that_are_drawn_stand_beside_those_that_are_learned() -> None:
    """A weight of both has entries without a source, and others that are combinations."""
    torch.manual_seed(1)
    model = meristem.trace(Averaged().eval(), (X[:4],))
    grown = meristem.grow(
        model, REQUEST, method="learned:steps=2",
        loss=lambda m: nn.functional.cross_entropy(m(X)[0], Y),
    )  # fmt: skip
    strategies = {c.kind: c.strategies for c in grown.plan.changes}
    assert strategies["hidden"] != strategies["mlp"]
    assert meristem.verify(model, grown, runtime="torch").ok


def test_attention_and_fused_projections() -> None:
    """Heads are digits of an axis, queries, keys and values pieces of it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True, dropout=0.0)
    x = torch.randn(2, 3, 8)
    model = meristem.trace(layer.eval(), (x,))
    target = torch.randn(2, 3, 8)

    def distance(module: nn.Module) -> torch.Tensor:
        return (module(x) - target).square().mean()

    grown = meristem.grow(
        model, {"heads": 3, "mlp": 16}, method="learned:steps=10,rate=0.05", loss=distance
    )
    with torch.no_grad():
        assert distance(grown.module()) < distance(model.module())
    assert meristem.verify(model, grown, runtime="torch").ok


def test_what_cannot_be_learned(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(MeristemError, match="learns on batches: give loss="):
        meristem.grow(model, REQUEST, method="learned")
    with pytest.raises(MeristemError, match="loss= is for method="):
        meristem.grow(model, REQUEST, loss=loss)
    for wrong, why in (
        (lambda _: 1.0, "did not return one number"),
        (lambda m: m(X), "did not return one number"),
        (lambda m: m(X).sum() * float("nan"), "returned nan"),
    ):
        with pytest.raises(MeristemError, match=why):
            meristem.grow(model, REQUEST, method="learned:steps=2", loss=wrong)
    with pytest.raises(MeristemError, match="the options of learned are steps=100"):
        meristem.grow(model, REQUEST, method="learned:unequal=1", loss=loss)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    with pytest.raises(OutputError, match="apply the same plan to it"):
        meristem.grow(file, REQUEST, method="learned", loss=loss)


def test_what_learns_badly_says_so() -> None:
    model = net()
    with pytest.raises(MeristemError, match="learning diverged at rate=1e\\+200"):
        meristem.grow(model, REQUEST, method="learned:steps=1,rate=1e200", loss=loss)
    with pytest.raises(MeristemError, match="loss= is a function of a module, not 3"):
        meristem.grow(model, REQUEST, method="learned", loss=3)
    twins = meristem.grow(model, {"mlp": 8}, method="learned:steps=2,noise=0", loss=loss)
    assert twins.plan.locked, "replicas of one unit learn alike"
