"""A plain PyTorch loop that grows its model twice, and goes on where it was if it is killed.

    python examples/train_plain.py [folder]

With a folder, checkpoints are kept there: stop the process at any moment, also while it grows, and start it
again. The loss of every step is the one that an undisturbed run has. At the end it prints what each stage
has cost.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meristem.integrations import Run
from meristem.training import AtStep, Ledger, Progress, Schedule, Stage, count_step

CONTEXT, BATCH, STEPS, EVERY, KEEP = 6, 32, 60, 8, 3


class Block(nn.Module):
    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, mlp)
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(mlp, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.drop(F.gelu(self.up(self.norm(x)))))


class NextByte(nn.Module):
    """The next byte of a text from the bytes before it: [batch, CONTEXT] -> [batch, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 8)
        self.mix = nn.Linear(8 * CONTEXT, 32)
        self.blocks = nn.ModuleList(Block(32, 24) for _ in range(2))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 256)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(self.embed(x).flatten(1))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def batches() -> tuple[Tensor, Tensor]:
    """Windows of the sources of Python's own standard library, and the bytes that follow them."""
    text = torch.tensor(list(Path(tempfile.__file__).read_bytes()))
    windows = text.unfold(0, CONTEXT + 1, 1)
    return windows[:, :-1], windows[:, -1]


def loss_on(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(module(inputs), targets)


def train(folder: Path, told: Callable[[str], Any] = print) -> float:
    """Train to the end, from the last checkpoint if there is one; the loss of the last step."""
    torch.manual_seed(0)
    module = NextByte()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    inputs, targets = batches()
    run = Run(module, optimizer, scheduler, example=(inputs[:4],))
    stages = [Stage({"mlp": "x2"}, AtStep(20)), Stage({"layers": 3}, AtStep(40))]
    progress = Progress(Schedule(stages))
    ledger = Ledger()

    def save() -> None:
        """The data's place is the step; what the run has cost so far is kept beside it."""
        schedule = progress.state_dict()
        run.save(folder, run.step, ledger.state_dict(), schedule=schedule, keep=KEEP)

    def begin_stage() -> None:
        count = count_step(run.module, lambda m: loss_on(m, inputs[:BATCH], targets[:BATCH]))
        ledger.stage(f"after {run.stage} growths", count)

    saved = run.resume(folder)
    if saved:
        progress.load_state_dict(saved["schedule"])
        ledger.load_state_dict(saved["position"])
        told(f"resumed at step {run.step}, after {run.stage} growths")
    order = torch.Generator().manual_seed(1)
    picks = torch.randint(0, len(inputs), (STEPS, BATCH), generator=order)

    begin_stage()
    value = float("nan")
    while run.step < STEPS:
        if progress.update(step=run.step):
            save()
            told(f"growing at step {run.step}")
            entry = run.grow(progress.stage.sizes, **progress.stage.arguments)
            progress.advance()
            told("parameters: {:,} -> {:,}".format(*entry["parameters"]))
            ledger.growth(seconds=entry["seconds"])
            begin_stage()
            save()
        began = time.perf_counter()
        run.module.train()
        pick = picks[run.step]
        loss = loss_on(run.module, inputs[pick], targets[pick])
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.scheduler.step()
        run.step += 1
        value = loss.item()
        ledger.step(tokens=BATCH, seconds=time.perf_counter() - began)
        told(f"step {run.step}: loss {value:.4f}")
        if run.step % EVERY == 0:
            save()
    told(str(ledger))
    return value


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            train(Path(place))
