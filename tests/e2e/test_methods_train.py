"""Training after growth: new units part, and the hidden layer uses more than its old width.

The copies of ``clone`` without noise are the documented exception: they stay equal for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.request import by_name
from tests.house.tree import ROOT

OLD, NEW, STEPS = 8, 16, 300
SLOWER = ("rms", "fuse", "net2wider", "clone:noise=0.3")
METHODS = (
    "preserve",
    "net2wider",
    "lemon",
    "clone:noise=0.3",
    "pair",
    "rms",
    "masked",
    "fuse",
    "learned",
)
Hidden = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


class Language(nn.Module):
    """The next character from the last four."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(27, 6)
        self.up, self.down, self.head = nn.Linear(24, OLD), nn.Linear(OLD, 12), nn.Linear(12, 27)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.up(self.embed(x).flatten(1))
        return self.head(torch.nn.functional.gelu(self.down(torch.nn.functional.gelu(h))))


def language_hidden(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = nn.functional.embedding(x, p["embed.weight"]).flatten(1)
    return nn.functional.gelu(h @ p["up.weight"].T + p["up.bias"])


class Blocks(nn.Module):
    """The next character from the last four, by two blocks of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.stem = nn.Embedding(27, 6), nn.Linear(24, 12)
        self.up = nn.ModuleList(nn.Linear(12, OLD) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(OLD, 12) for _ in range(2))
        self.head = nn.Linear(12, 27)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(self.embed(x).flatten(1))
        for up, down in zip(self.up, self.down, strict=True):
            h = h + down(torch.tanh(up(h)))
        return self.head(h)


def blocks_hidden(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = nn.functional.embedding(x, p["embed.weight"]).flatten(1) @ p["stem.weight"].T
    return torch.tanh((h + p["stem.bias"]) @ p["up.0.weight"].T + p["up.0.bias"])


class Pictures(nn.Module):
    """Four kinds of texture."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, OLD, 3, padding=1), nn.BatchNorm2d(OLD)
        self.second, self.head = nn.Conv2d(OLD, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(h)).mean((2, 3)))


def pictures_hidden(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = nn.functional.conv2d(x, p["first.weight"], p["first.bias"], padding=1)
    h = nn.functional.batch_norm(
        h, p["norm.running_mean"], p["norm.running_var"], p["norm.weight"], p["norm.bias"]
    )
    return torch.relu(h).movedim(1, -1).flatten(0, -2)


class ResidualPictures(nn.Module):
    """Four kinds of texture, by two convolution blocks of one kind around sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(6, OLD, 3, padding=1),
                nn.BatchNorm2d(OLD),
                nn.ReLU(),
                nn.Conv2d(OLD, 6, 1),
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def residual_pictures_hidden(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    h = nn.functional.conv2d(x, p["stem.weight"], p["stem.bias"], padding=1)
    h = nn.functional.conv2d(h, p["blocks.0.0.weight"], p["blocks.0.0.bias"], padding=1)
    norm = [p[f"blocks.0.1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    return torch.relu(nn.functional.batch_norm(h, *norm)).movedim(1, -1).flatten(0, -2)


def text() -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts and next characters of the licence, letters alone."""
    source = (ROOT / "LICENSE").read_text(encoding="utf-8").lower()
    ids = torch.tensor([ord(c) - 96 if "a" <= c <= "z" else 0 for c in source])
    return ids[:-1].unfold(0, 4, 1)[: len(ids) - 4], ids[4:]


def textures() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    kinds = torch.randint(0, 4, (256,))
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    waves = torch.stack([rows, columns, rows + columns, rows - columns])[kinds]
    phase = torch.rand(256, 1, 1) * 6
    return (torch.sin(waves * 1.7 + phase) + 0.3 * torch.randn(256, 8, 8))[:, None], kinds


TASKS: dict[str, tuple[type[nn.Module], Callable[[], Any], Hidden, str, str]] = {
    "language": (Language, text, language_hidden, "up.weight", "mlp"),
    "blocks": (Blocks, text, blocks_hidden, "up.0.weight", "mlp"),
    "pictures": (Pictures, textures, pictures_hidden, "first.weight", "mlp"),
    "residual pictures": (
        ResidualPictures,
        textures,
        residual_pictures_hidden,
        "blocks.0.0.weight",
        "mlp",
    ),
}


def train(module: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> list[float]:
    """AdamW on batches that a seed draws; the losses."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    draw = torch.Generator().manual_seed(2)
    losses = []
    for step in range(steps):
        if hasattr(module, "growth_mask"):
            module.growth_mask.fill_(min(1.0, float(module.growth_mask) + (step + 1) / 100))
        batch = torch.randint(0, len(x), (64,), generator=draw)
        loss = nn.functional.cross_entropy(module(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def grown(task: str, method: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small model after some training, and then twice its hidden width."""
    build, data, _, weight, _ = TASKS[task]
    x, y = data()
    models = []
    for seed in (0, 1) if method == "fuse" else (0,):
        torch.manual_seed(seed)
        module = build()
        train(module, x, y, 100)
        models.append(meristem.trace(module.eval(), (x[:64],)))
    model, *others = models

    def loss(module: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(module(x[:64]), y[:64])

    (name,) = (
        d.name
        for d in model.dimensions
        if (weight, 0) in d.weights and d.size == OLD and d.growable
    )
    batches = {"loss": loss} if method in ("learned", "gradmax") else {}
    grown = meristem.grow(model, {by_name(name): NEW}, method=method, models=others, **batches)
    return grown.module().train(), x, y


def rank(h: torch.Tensor) -> int:
    s = torch.linalg.svdvals(h.double())
    return int((s > 1e-4 * s[0]).sum())


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach() for n, t in module.state_dict().items()}


def grown_axes(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    """Parameters with new units, and the axis along which they are new."""
    found = {n: list(w.shape).index(NEW) for n, w in weights.items() if NEW in w.shape}
    assert len(found) >= 3
    return found


@pytest.mark.parametrize(
    ("task", "method"),
    [
        # A gelu has a gradient at zero, which gradmax needs.
        *(
            pytest.param("language", m, marks=pytest.mark.full if m in SLOWER else ())
            for m in (*METHODS, "gradmax")
        ),
        ("blocks", "aki"),
        pytest.param("residual pictures", "aki", marks=pytest.mark.full),
        *(pytest.param("pictures", m, marks=pytest.mark.full) for m in METHODS),
    ],
)
def test_new_units_part_and_add_rank(task: str, method: str) -> None:
    _, _, hidden, weight, _ = TASKS[task]
    module, x, y = grown(task, method)
    felt: dict[str, torch.Tensor] = {}
    for _ in range(2):
        train(module, x, y, 1)
        for name, p in module.named_parameters():
            assert p.grad is not None
            felt[name] = felt.get(name, torch.zeros_like(p)) + p.grad.abs()
    for name, axis in grown_axes(felt).items():
        assert felt[name].movedim(axis, 0)[OLD:].reshape(NEW - OLD, -1).amax(1).min() > 0, name
    losses = train(module, x, y, STEPS - 2)
    assert sum(losses[-50:]) < sum(losses[:50])
    rows = state(module)[weight].flatten(1)
    gaps = torch.cdist(rows, rows) + torch.eye(NEW) * 1e9
    assert gaps.min() > 1e-3, "no two units are equal"
    assert rank(hidden(state(module), x)) > OLD


@pytest.mark.parametrize("task", ["language", pytest.param("pictures", marks=pytest.mark.full)])
def test_even_copies_are_locked(task: str) -> None:
    """And the plan says so."""
    _, _, hidden, weight, _ = TASKS[task]
    module, x, y = grown(task, "clone")
    train(module, x, y, STEPS)
    rows = state(module)[weight].flatten(1)
    torch.testing.assert_close(rows[:OLD], rows[OLD:], rtol=0, atol=1e-4)
    assert rank(hidden(state(module), x)) <= OLD
