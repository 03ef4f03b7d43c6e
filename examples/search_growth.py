"""Search how a small language model should grow, on the sources of the standard library.

Every trial trains a byte decoder for a few seconds: from the sizes that the schedule starts with, through
its growths, with the optimizer carried through each. FLOPs are torch's own, of all stages together.

    python examples/search_growth.py                     # six trials, half a minute
    meristem search examples/search_growth.py:run --target layers=4 --target mlp=128 \
        --start layers=1,2 --method preserve --method stack --budget 1.5e11 --trials 14
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cache

import torch

import meristem
from meristem.demo_model import Decoder, Sizes
from meristem.demo_text import Text, held_out_loss, loss, standard_library
from meristem.training import WSD, Count, Ledger, Progress, Schedule, Space, count_step, search

RATE, BATCH, REPORTS = 3e-3, 8, 4
# The learning rate is a function of the share of the budget that is spent, in thousandths.
PLAN = WSD(1000, warmup=30, decay=250, floor=0.05)


@cache
def text() -> Text:
    return standard_library()


def decoder(start: Mapping[str, int]) -> Decoder:
    torch.manual_seed(0)
    return Decoder(Sizes(hidden=48, qk_dim=12, value_dim=12, dropout=0.0, **start))


def traced(start: Mapping[str, int]) -> meristem.Model:
    """For ``--check``: what a schedule is planned on before it runs."""
    return meristem.trace(decoder(start).eval(), (text().windows(2)[:, :-1],))


def cost(module: torch.nn.Module, windows: torch.Tensor) -> Count:
    return count_step(module, lambda m: loss(m, windows))


def run(schedule: Schedule, budget: float) -> Iterator[tuple[float, float]]:
    """Train by a schedule; yields (held-out loss, FLOPs so far)."""
    torch.set_num_threads(1)
    module: torch.nn.Module = decoder(schedule.start)
    data = torch.Generator().manual_seed(1)
    windows = text().batch(BATCH, data)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, betas=(0.9, 0.98))
    progress, ledger = Progress(schedule), Ledger()
    ledger.stage("start", cost(module, windows))
    reported = 0
    while ledger.flops < budget:
        if progress.update(flops=ledger.flops):
            began = time.monotonic()
            stage = progress.stage
            assert stage is not None
            model = meristem.trace(module.eval(), (windows[:, :-1],))
            grown = meristem.grow(model, stage.sizes, **stage.arguments)
            module = grown.module().train()
            optimizer = grown.optimizer(optimizer, module=module)
            progress.advance()
            ledger.growth(seconds=time.monotonic() - began)
            ledger.stage(str(stage), cost(module, windows))
        for group in optimizer.param_groups:
            group["lr"] = RATE * PLAN(int(1000 * ledger.flops / budget))
        windows = text().batch(BATCH, data)
        optimizer.zero_grad()
        loss(module, windows).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        ledger.step(tokens=windows[:, 1:].numel())
        if ledger.flops * REPORTS >= budget * (reported + 1):
            reported += 1
            yield held_out_loss(module, text(), 16), ledger.flops


def main() -> None:
    space = Space(
        {"layers": 4, "mlp": 128}, {"layers": (1, 2)}, ("preserve", "stack"), growths=1, spend=0.5
    )
    found = search(run, space, 1e10, trials=5, told=lambda t: print(f"{t.state:10} {t} {t.reason}"))
    print("\nthe front:")
    for t in found.front:
        print(f"loss {t.loss:.3f} at {t.flops:.3g} FLOPs: {t}")
    assert found.front
    assert len({t.schedule["start"]["layers"] for t in found.complete}) > 1


if __name__ == "__main__":
    main()
