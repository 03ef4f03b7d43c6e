"""Training as the demonstration does it: AdamW with a short warm-up, and the losses it saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from meristem.demo_text import Text, held_out_loss, loss

RATE, WARM_UP, BATCH = 3e-3, 20, 16
BARS = "▁▂▃▄▅▆▇█"


def train(
    module: nn.Module,
    text: Text,
    steps: int,
    *,
    seed: int,
    every: int,
    rate: float = RATE,
    step_done: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train in place; the held-out loss before the first step and after each ``every`` steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.98))
    torch.manual_seed(seed)  # dropout
    module.train()
    seen = [held_out_loss(module, text)]
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARM_UP)
        optimizer.zero_grad()
        loss(module, text.batch(BATCH, generator)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if step % every == 0 or step == steps:
            seen.append(held_out_loss(module, text))
        if step_done is not None:
            step_done(step, seen[-1])
    module.eval()
    return seen


def curve(losses: Sequence[float], low: float, high: float) -> str:
    """One bar for each loss, on a scale that several curves can share."""
    span = max(high - low, 1e-9)
    top = len(BARS) - 1
    return "".join(BARS[round(min(max((x - low) / span, 0.0), 1.0) * top)] for x in losses)
