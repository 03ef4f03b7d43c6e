"""Training after growth in depth: every weight of a new layer moves, and new layers become different
ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import meristem
from tests.e2e.test_methods_train import STEPS, Blocks, Pictures, state, text, textures, train


class Residual(nn.Module):
    """Convolution blocks with batch norms around a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


TASKS = {
    "language": (Blocks, text, "layers"),
    "pictures": (Residual, textures, "layers"),
    "plain pictures": (Pictures, textures, "layers@second"),
}
RESIDUAL = (
    "identity", "cancel", "stack", "stack:order=interleave", "split", "split:by=sublayer",
    "split:scalars=explicit",
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "method"),
    [
        *(("language", m) for m in RESIDUAL[:2]),
        *(pytest.param("language", m, marks=pytest.mark.full) for m in RESIDUAL[2:]),
        *(pytest.param("pictures", m, marks=pytest.mark.full) for m in RESIDUAL),
        ("plain pictures", "net2deeper"),
    ],
)
def test_new_layers_learn_and_part(task: str, method: str) -> None:
    build, data, selector = TASKS[task]
    torch.manual_seed(0)
    small, (x, y) = build(), data()
    train(small, x, y, 100)
    model = meristem.trace(small.eval(), (x[:64],))
    size = 2 if method == "net2deeper" else 4
    grown = meristem.grow(model, {selector: size}, method=method)
    module = grown.module().train()
    fresh = [n for n, _ in module.named_parameters() if n in grown.plan.clones]
    fresh = [n for n in fresh if n not in dict(small.named_parameters())]
    assert len(fresh) >= 2
    felt: dict[str, float] = {}
    for _ in range(2):
        train(module, x, y, 1)
        for name, p in module.named_parameters():
            felt[name] = felt.get(name, 0.0) + float(p.grad.abs().max())
    assert all(felt[n] > 0 for n in fresh), {n: felt[n] for n in fresh if not felt[n]}
    losses = train(module, x, y, STEPS - 2)
    assert sum(losses[-50:]) < sum(losses[:50])
    weights = state(module)
    for name in fresh:
        source, _ = grown.plan.clones[name]
        many = weights[name].dim() > 1
        rows = weights[name].flatten(1) if many else weights[name].reshape(-1, 1)
        if source and weights[name].shape == weights.get(source, rows).shape:
            assert (weights[name] - weights[source]).abs().max() > 1e-3, f"{name} is {source}"
        if len(rows) > 1 and weights[name].dim() > 1:
            gaps = torch.cdist(rows, rows) + torch.eye(len(rows)) * 1e9
            assert gaps.min() > 1e-3, f"two units of {name} are equal"
