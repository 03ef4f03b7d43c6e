"""GradMax: new units are zero, and what sums them are the singular vectors of what their gradient is linear
in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meristem
from meristem.rewrite.errors import MeristemError, NotPreserved, OutputError
from tests.e2e.measure import algebra_error
from tests.e2e.test_donors import Block
from tests.e2e.test_methods import model_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class Convolutions(nn.Module):
    def __init__(self, act: Any = torch.tanh) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 3, 3), nn.Linear(3, 4)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.first(x)))
        return self.head(torch.tanh(self.second(h)).mean((2, 3)))


torch.manual_seed(0)
X, Y = torch.randn(32, 6), torch.randint(0, 4, (32,))
IMAGES = torch.randn(32, 2, 6, 6)


def loss(module: nn.Module) -> torch.Tensor:
    return F.cross_entropy(module(X), Y)


def seen(module: nn.Module) -> torch.Tensor:
    return F.cross_entropy(module(IMAGES), Y)


def net() -> Any:
    torch.manual_seed(1)
    return meristem.trace(Net().eval(), (X[:4],))


def convolutions(act: Any = torch.tanh) -> Any:
    torch.manual_seed(1)
    return meristem.trace(Convolutions(act).eval(), (IMAGES[:4],))


def test_directions_by_hand() -> None:
    """For units of a gelu at zero M = 0.5 E[g (x, 1)^t], with g the gradient at what sums them."""
    model = net()
    grown = meristem.grow(model, {"mlp": 8}, method="gradmax", loss=loss)
    new, old = grown.state_dict(), model.state_dict()
    assert not new["up.weight"][5:].any()
    assert not new["up.bias"][5:].any()
    y = model.module()(X).detach().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(y, Y), y)
    m = 0.5 * g.T @ torch.cat([X, torch.ones(32, 1)], 1)
    left, sizes, _ = torch.linalg.svd(m)
    assert sizes[2] > 1e-3
    omega = new["down.weight"][:, 5:]
    length = old["down.weight"].norm(dim=0).mean()
    torch.testing.assert_close(omega.norm(dim=0), length.expand(3), rtol=1e-4, atol=0)
    cosines = (left[:, :3] * omega).sum(0).abs() / length
    torch.testing.assert_close(cosines, torch.ones(3), rtol=0, atol=1e-3)
    assert algebra_error(model, grown, X[:4]) <= 1e-10
    module = grown.module()
    loss(module).backward()
    felt = torch.cat([module.up.weight.grad[5:], module.up.bias.grad[5:, None]], 1).norm(dim=1)
    torch.testing.assert_close(felt, sizes[:3] * length, rtol=1e-3, atol=0)


def test_units_beyond_the_rank_are_drawn() -> None:
    grown = meristem.grow(net(), {"mlp": 14}, method="gradmax", loss=loss)
    omega = grown.state_dict()["down.weight"][:, 5:]
    assert torch.linalg.matrix_rank(omega) == 4
    gaps = torch.cdist(omega.T, omega.T) + torch.eye(9) * 1e9
    assert gaps.min() > 1e-3


@pytest.mark.parametrize(
    "request_", [pytest.param({"channels@": 7}, marks=pytest.mark.full), {"mlp": 9}]
)
def test_convolutions_with_a_norm_between(request_: dict[str, int]) -> None:
    model = convolutions()
    kinds = {d.name for d in model.dimensions if d.growable}
    name = next(n for n in kinds if n.partition("@")[0] in {k.rstrip("@") for k in request_})
    grown = meristem.grow(model, {name: 9}, method="gradmax", loss=seen)
    assert algebra_error(model, grown, IMAGES[:4]) <= 1e-10
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    again = meristem.grow(model, {name: 9}, method="gradmax", loss=seen)
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in grown.state_dict().items())


def test_the_gradient_is_larger_than_behind_drawn_weights() -> None:
    model = convolutions()
    (name,) = {d.name for d in model.dimensions if ("first.weight", 0) in d.weights and d.growable}
    grown = meristem.grow(model, {name: 8}, method="gradmax", loss=seen)

    def felt(omega: torch.Tensor | None) -> float:
        module = grown.module()
        if omega is not None:
            with torch.no_grad():
                module.second.weight[:, 4:] = omega
        seen(module).backward()
        return float(module.first.weight.grad[4:].norm())

    best = felt(None)
    own = grown.state_dict()["second.weight"][:, 4:]
    torch.manual_seed(3)
    for _ in range(5):
        drawn = torch.randn_like(own)
        drawn *= own.flatten(0, 0).movedim(1, 0).flatten(1).norm(dim=1).mean() / drawn.movedim(
            1, 0
        ).flatten(1).norm(dim=1).reshape(1, -1, 1, 1)
        assert felt(drawn) < best


@pytest.mark.full
def test_a_gated_mlp_and_the_plan_for_a_file(tmp_path: Path) -> None:
    model, inputs = model_of("llama_tied")

    def squares(module: nn.Module) -> torch.Tensor:
        return module(*inputs)[0].float().square().mean()

    plan = meristem.plan(model, {"mlp": "x1.5"}, method="gradmax", loss=squares)
    grown = meristem.grow(model, meristem.Plan.from_json(plan.to_json()))
    assert algebra_error(model, grown, *inputs) <= 1e-10
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["training"].checked
    small, x = net(), X[:4]
    file = meristem.load(small.save(tmp_path / "small.onnx"))
    plan = meristem.plan(small, {"mlp": 8}, method="gradmax", loss=loss)
    big = meristem.grow(file, plan)
    ours = meristem.grow(small, plan).state_dict()
    assert all(np.array_equal(big.state_dict()[n], w.numpy()) for n, w in ours.items())
    assert meristem.verify(file, big).ok
    with pytest.raises(OutputError, match="apply the same plan to it"):
        meristem.grow(file, {"mlp": 8}, method="gradmax", loss=loss)
    assert x.shape == (4, 6)


def test_where_it_does_not_apply() -> None:
    with pytest.raises(MeristemError, match=r"reads gradients on batches: give loss="):
        meristem.grow(net(), {"mlp": 8}, method="gradmax")
    model = convolutions(torch.relu)
    (name,) = {d.name for d in model.dimensions if ("first.weight", 0) in d.weights and d.growable}
    with pytest.raises(NotPreserved, match=r'a relu.*use method="preserve"'):
        meristem.grow(model, {name: 8}, method="gradmax", loss=seen)
    model = convolutions(torch.sigmoid)
    (name,) = {d.name for d in model.dimensions if ("first.weight", 0) in d.weights and d.growable}
    with pytest.raises(NotPreserved, match=r'cannot be zero.*use method="preserve"'):
        meristem.grow(model, {name: 8}, method="gradmax", loss=seen)
    with pytest.raises(NotPreserved, match="no gradient reaches them on these batches"):
        meristem.grow(
            net(), {"mlp": 8}, method="gradmax", loss=lambda m: m(X).sum() * 0 + m.down.bias.sum()
        )


def test_sizes_that_agree_and_values_that_are_given() -> None:
    """The square weight of two widths that double: the axis of what is summed is known."""
    torch.manual_seed(0)
    square = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4))
    model = meristem.trace(square.eval(), (X[:4],))
    request = {d.name: 10 for d in model.dimensions if d.growable}
    assert len(request) == 2
    grown = meristem.grow(model, request, method="gradmax", loss=loss)
    assert algebra_error(model, grown, X[:4]) <= 1e-10
    filled = {n: np.ones(w.shape) for n, w in grown.module().named_parameters() if "bias" not in n}
    with pytest.raises(MeristemError, match="which method='gradmax' fills by itself"):
        meristem.grow(model, request, method="gradmax", loss=loss, given=filled)
    with pytest.raises(MeristemError, match="which method='gradmax' fills by itself"):
        meristem.grow(
            net(), {"mlp": 8}, method="gradmax", loss=loss, given={"down.weight": np.ones((4, 3))}
        )


def test_a_plan_holds_what_was_found() -> None:
    """It is carried out as it is, whether a loss is there or not."""
    model = net()
    found = meristem.grow(model, {"mlp": 8}, method="gradmax", loss=loss)
    plan = meristem.Plan.from_json(found.plan.to_json())

    def other(module: nn.Module) -> torch.Tensor:
        raise AssertionError("the loss is not needed")

    for again in (meristem.grow(model, plan), meristem.grow(model, plan, loss=other)):
        weights = again.module().state_dict()
        for name, tensor in found.module().state_dict().items():
            assert torch.equal(weights[name], tensor)


def residual() -> Any:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(6, 6), Block(), Block(), nn.Linear(6, 4))
    return meristem.trace(module.double().eval(), (X.double(),))


def doubled(module: nn.Module) -> torch.Tensor:
    return F.cross_entropy(module(X.double()), Y)


def entries_that_never_learn(module: nn.Module, steps: int = 4) -> dict[str, int]:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    silent = {n: torch.ones_like(p, dtype=torch.bool) for n, p in module.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        doubled(module).backward()
        for n, p in module.named_parameters():
            assert p.grad is not None
            silent[n] &= p.grad == 0
        optimizer.step()
    return {n: int(s.sum()) for n, s in silent.items() if s.any()}


@pytest.mark.parametrize("depth", ["identity", "cancel"])
@pytest.mark.parametrize("together", [True, False], ids=["one call", "one after another"])
def test_units_that_begin_with_nothing_wake_in_new_layers(depth: str, together: bool) -> None:
    """Before what is zero in a new block they would never learn; an odd number leaves one unpaired."""
    model = residual()
    if together:
        request = {"mlp": 7, "layers": 3}
        grown = meristem.grow(model, request, method=f"gradmax+{depth}", loss=doubled)
    else:
        model = meristem.grow(model, {"mlp": 7}, method="gradmax", loss=doubled)
        grown = meristem.grow(model, {"layers": 3}, method=depth)
    assert algebra_error(model, grown, X.double()) <= 1e-10
    assert not grown.state_dict()["1.up.weight"][4:].any(), "old blocks keep theirs"
    assert grown.state_dict()["3.up.weight"][4:].all()
    assert not entries_that_never_learn(grown.module())
    report = meristem.verify(model, grown, runtime="torch", inputs=[(X.double(),)])
    assert report.ok, str(report)


def test_zeros_that_would_never_learn_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 3 knows them by their gradients, whatever left them."""
    monkeypatch.setattr("meristem.rewrite.depth._wake", lambda clone: None)
    model = meristem.grow(residual(), {"mlp": 7}, method="gradmax", loss=doubled)
    grown = meristem.grow(model, {"layers": 3})
    assert entries_that_never_learn(grown.module()) == {
        "3.up.weight": 18,
        "3.up.bias": 3,
        "3.down.weight": 18,
    }
    report = meristem.verify(model, grown, runtime="torch", inputs=[(X.double(),)])
    assert "3.up.weight is zero in a part that receives no gradient" in str(report)
    assert not report.ok


def test_a_plan_does_not_fit_a_file_that_renamed_its_weights(tmp_path: Path) -> None:
    module = residual().module()
    x = X.double().reshape(4, 8, 6)  # three axes: the exporter stores the transposed weights
    model = meristem.trace(module, (x,))
    grown = meristem.grow(model, {"mlp": 7}, method="gradmax", loss=lambda m: m(x).square().mean())
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (x,), path, dynamo=True, verbose=False)
    with pytest.raises(
        MeristemError, match=r"exporters rename what they transpose; grow the model that"
    ):
        meristem.grow(meristem.load(path), grown.plan)
