"""What triggers measure in a module that trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meristem
from meristem.rewrite.errors import MeristemError
from meristem.training.measure import Activations, growth_scores
from meristem.training.triggers import ActivationRank, GradMaxScore

PAIRS = {"first": ("0.up", "0.down"), "second": ("1.up", "1.down")}


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, width), nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


torch.manual_seed(0)
X, Y = torch.randn(8, 5, 6), torch.randn(8, 5, 6)


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(Mlp(5), Mlp(9)).double()


def loss(module: nn.Module) -> torch.Tensor:
    return F.mse_loss(module(X.double()), Y.double())


def test_activations_are_collected_while_it_is_open() -> None:
    module = net()
    with Activations(module, ["0.up", "1.up"], rows=20) as seen:
        module(X.double())
    assert {n: tuple(h.shape) for n, h in seen.rows.items()} == {"0.up": (20, 5), "1.up": (20, 9)}
    expected = module[0].up(X.double()).flatten(0, 1)[::2]
    torch.testing.assert_close(seen.rows["0.up"], expected)
    kept = seen.rows["0.up"].clone()
    module(torch.zeros_like(X).double())
    assert torch.equal(seen.rows["0.up"], kept)
    assert ActivationRank().update(activations=seen.rows).measured["phi"]["0.up"] == 1.0
    image = nn.Sequential(nn.Conv2d(3, 4, 3))
    with Activations(image, ["0"], axis=1) as seen:
        image(torch.randn(2, 3, 6, 6))
    assert tuple(seen.rows["0"].shape) == (32, 4)
    with pytest.raises(MeristemError, match=r"no submodule '0.op'; nearest: .*0.up"):
        Activations(module, ["0.op"])


def test_scores_are_the_gradient_that_new_units_get() -> None:
    """Against a model that is grown by GradMax: tanh'(0) is 1, so its gradients are the scores."""
    module = net()
    before = [p.detach().clone() for p in module.parameters()]
    scores = growth_scores(module, PAIRS, loss)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    model = meristem.trace(module.eval(), (X.double(),))
    for place, (up, down) in PAIRS.items():
        (name,) = {
            d.name for d in model.dimensions if (f"{up}.weight", 0) in d.weights and d.kind == "mlp"
        }
        size = model[name].size
        grown = meristem.grow(model, {name: size + 2}, method="gradmax", loss=loss).module()
        loss(grown).backward()
        weight, bias = (grown.get_parameter(f"{up}.{n}").grad[size:] for n in ("weight", "bias"))
        felt = weight.square().sum(1) + bias.square()
        torch.testing.assert_close(felt.tolist(), list(scores[place].attainable[:2]))
        assert grown.get_parameter(f"{down}.weight").shape == (6, size + 2)
    module.zero_grad()
    loss(module).backward()
    old = sum(p.grad.square().sum() for p in module[0].up.parameters())
    assert scores["first"].present == pytest.approx(float(old))
    decision = GradMaxScore(1e-9).update(scores=scores)
    assert set(decision.where) == set(PAIRS)


def test_places_that_have_no_score() -> None:
    module = net()
    for pairs, word in (
        ({"a": ("0.up", "0")}, "is a Linear and 0 a Mlp"),
        ({"a": ("0.up",)}, "give two names"),
        ({"a": ("0.up", "2.down")}, "no submodule"),
    ):
        with pytest.raises(MeristemError, match=word):
            growth_scores(module, pairs, loss)  # type: ignore[arg-type]
    with pytest.raises(MeristemError, match="does not reach second"):
        growth_scores(module, PAIRS, lambda m: m[0](X.double()).square().mean())
    with pytest.raises(MeristemError, match="give batches of numbers"):
        growth_scores(module, PAIRS, lambda m: loss(m) * float("nan"))
    assert not module[0].up._forward_pre_hooks
    assert not module[0].down._forward_hooks
