"""Training after more experts: those of an MLP that became a mixture part, copies in a mixture part where
their shares are unequal, and stay equal where nothing is shared, as the plan says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from tests.e2e.test_methods_train import STEPS, rank, text, textures, train
from tests.passes.mixtures import Mixture

pytestmark = pytest.mark.full
UNITS, EXPERTS = 8, 4


class Language(nn.Module):
    """The next character from the last four, by one block."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.embed, self.stem = nn.Embedding(27, 6), nn.Linear(24, 6)
        self.norm, self.inner, self.head = nn.LayerNorm(6), inner, nn.Linear(6, 27)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(self.embed(x).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x)
        return self.head(h + self.inner(self.norm(h)))


class Pictures(nn.Module):
    """Four kinds of texture, by a convolution and an MLP on every pixel's channels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.LayerNorm(6)
        self.inner, self.head = inner, nn.Linear(6, 4)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(x).permute(0, 2, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x)
        return self.head((h + self.inner(self.norm(h))).mean((1, 2)))


TASKS = {"language": (Language, text), "pictures": (Pictures, textures)}


def felt_by(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of the first two steps, summed."""
    felt: dict[str, torch.Tensor] = {}
    for _ in range(2):
        train(module, x, y, 1)
        for name, p in module.named_parameters():
            if name != "inner.bias":  # a bias of another form of gates
                assert p.grad is not None, name
                felt[name] = felt.get(name, torch.zeros_like(p)) + p.grad.abs()
    return felt


def apart(rows: torch.Tensor) -> float:
    """The least distance of two rows."""
    return float((torch.cdist(rows, rows) + torch.eye(len(rows)) * 1e9).min())


def normed(module: nn.Module, small: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the mixture of the grown module reads."""
    fresh = type(small)(nn.Identity())
    fresh.load_state_dict({n: t for n, t in module.state_dict().items() if "inner" not in n})
    with torch.no_grad():
        return fresh.norm(fresh.tokens(x)).flatten(0, -2)


@pytest.mark.parametrize("task", TASKS)
def test_experts_of_an_mlp_part(task: str) -> None:
    build, data = TASKS[task]
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, UNITS), nn.GELU(), nn.Linear(UNITS, 6))
    small, (x, y) = build(mlp), data()
    train(small, x, y, 100)
    model = meristem.trace(small.eval(), (x[:64],))
    grown = meristem.grow(model, {"experts": EXPERTS}, method="upcycle:top=2")
    module = grown.module().train()
    felt = felt_by(module, x, y)
    fresh = [n for n in felt if "experts" in n or "router" in n]
    assert len(fresh) == 4 * EXPERTS + 1
    # Equal experts give a router nothing to choose by: its gradient begins at the second step.
    assert all(float(felt[n].max()) > 1e-6 for n in fresh), {n: float(felt[n].max()) for n in fresh}
    router = felt[next(n for n in fresh if "router" in n)]
    assert float(router.abs().amax(1).min()) > 0, "a row for every expert"
    losses = train(module, x, y, STEPS - 2)
    assert sum(losses[-50:]) < sum(losses[:50])
    weights = {n: t.detach() for n, t in module.state_dict().items()}
    ups = torch.cat([weights[f"inner.experts.{e}.0.weight"] for e in range(EXPERTS)])
    bias = torch.cat([weights[f"inner.experts.{e}.0.bias"] for e in range(EXPERTS)])
    assert apart(ups) > 1e-3, "no two units are equal"
    hidden = nn.functional.gelu(normed(module, small, x) @ ups.T + bias)
    assert rank(hidden) > UNITS


def mixture(way: str, method: str) -> tuple[meristem.Model, nn.Module, torch.Tensor, torch.Tensor]:
    """Twice the experts, after some training."""
    torch.manual_seed(0)
    small, (x, y) = Language(Mixture("topk_softmax", way, units=2)), text()
    train(small, x, y, 100)
    model = meristem.trace(small.eval(), (x[:64],))
    return meristem.grow(model, {"experts": 2 * EXPERTS}, method=method), small, x, y


@pytest.mark.parametrize("method", ["net2wider", "lemon", "clone:noise=0.3"])
def test_copies_of_experts_part_where_shares_are_unequal(method: str) -> None:
    grown, small, x, y = mixture("dense", method)
    assert not grown.plan.locked
    module = grown.module().train()
    felt = felt_by(module, x, y)
    for name in ("inner.up", "inner.down"):
        assert felt[name].flatten(1).amax(1).min() > 0, name
    train(module, x, y, STEPS - 2)
    weights = {n: t.detach() for n, t in module.state_dict().items()}
    assert apart(weights["inner.up"].flatten(1)) > 1e-3
    hidden = torch.relu(normed(module, small, x) @ weights["inner.up"].flatten(0, 1).T)
    assert rank(hidden) > 2 * EXPERTS, "more than the old experts' units"


@pytest.mark.parametrize(("way", "method"), [("chosen", "net2wider"), ("dense", "copy")])
def test_copies_that_share_nothing_are_locked(way: str, method: str) -> None:
    """And the plan says so."""
    grown, _, x, y = mixture(way, method)
    assert {"inner.up", "inner.down", "inner.router"} <= set(grown.plan.locked)
    module = grown.module().train()
    train(module, x, y, STEPS)
    rows = module.state_dict()["inner.up"].flatten(1)
    gaps = torch.cdist(rows, rows) + torch.eye(len(rows)) * 1e9
    assert gaps.amin(1).max() < 1e-4, "every expert has its equal"
