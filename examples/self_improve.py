"""Train on a text until the model saturates, grow it, train on more text, and so on: end to end.

    python examples/self_improve.py                   # three minutes on two cores
    python examples/self_improve.py --without-growth  # the same texts, the model as it was

The texts are growing slices of the standard library's sources; every tenth file is never trained on, and
the loss on those says how good a model is. A trigger watches it: when it stops falling, the model has
learned from this slice what it can. meristem then grows it exactly, so that the loss stays where it was,
carries AdamW's state along, and the next, larger slice begins.

Leaves self_improve.json (the log as data) and self_improve.png (each growth is a line) in --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import meristem
from meristem.demo_model import Decoder, Sizes
from meristem.demo_text import Text, loss, standard_library
from meristem.training import Ledger, Plateau, count_step

RATE, WARM_UP, BATCH = 3e-3, 20, 8


@dataclass(frozen=True)
class Plan:
    """``slices`` are kilobytes of text; between two of them stands a growth."""

    start: Sizes
    slices: tuple[int, ...]
    growths: tuple[dict[str, Any], ...]
    every: int
    steps: int
    patience: int
    tolerance: float


FULL = Plan(
    Sizes(hidden=32, layers=2, heads=2, kv_heads=2, qk_dim=16, value_dim=16, mlp=64, dropout=0.0),
    slices=(128, 512, 3072),
    growths=(
        {"sizes": {"layers": "x2", "mlp": "x2"}, "method": "lemon+identity"},
        {"sizes": {"hidden": "x2", "heads": "x2", "mlp": "x2"}, "method": "lemon"},
    ),
    every=20, steps=700, patience=4, tolerance=0.01,
)  # fmt: skip
SMOKE = Plan(
    Sizes(hidden=8, layers=1, heads=2, kv_heads=2, qk_dim=4, value_dim=4, mlp=8, dropout=0.0),
    slices=(8, 16),
    growths=({"sizes": {"mlp": "x2"}, "method": "lemon"},),
    every=2, steps=12, patience=2, tolerance=0.5,
)  # fmt: skip


class Log:
    """Lines for people, events for programs."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.begun = time.perf_counter()

    def __call__(self, event: str, text: str, **facts: Any) -> None:
        seconds = round(time.perf_counter() - self.begun, 1)
        self.events.append({"event": event, "seconds": seconds, **facts})
        if text:
            print(f"{seconds:6.1f} s  {text}", flush=True)


class Pipeline:
    """The model, its optimizer, where it stands in the data, what it has cost, and the log."""

    def __init__(self, plan: Plan, text: Text, seed: int, grows: bool) -> None:
        torch.manual_seed(seed)
        self.plan, self.text, self.grows = plan, text, grows
        self.module: nn.Module = Decoder(plan.start)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=RATE, betas=(0.9, 0.98)
        )
        self.draw = torch.Generator().manual_seed(seed)
        self.step = 0
        self.log, self.ledger = Log(), Ledger()

    def run(self) -> None:
        for number, kilobytes in enumerate(self.plan.slices):
            self.train_until_saturated(number, kilobytes)
            if self.grows and number < len(self.plan.growths):
                self.grow(number)
        self.log(
            "end", f"held-out loss {self.held_out():.4f} after {self.step} steps",
            step=self.step, loss=self.held_out(), parameters=self.parameters,
            flops=self.ledger.flops,
        )  # fmt: skip
        print(self.ledger)

    def train_until_saturated(self, number: int, kilobytes: int) -> None:
        part = Text(
            self.text.train[: kilobytes * 1024],
            self.text.held_out,
            self.text.files,
            self.text.folder,
        )
        trigger = Plateau(patience=self.plan.patience, tolerance=self.plan.tolerance)
        self.log(
            "slice", f"slice {number + 1}: {kilobytes} kB, {self.parameters:,} parameters",
            step=self.step, slice=number + 1, kilobytes=kilobytes, parameters=self.parameters,
        )  # fmt: skip
        batch = part.windows(BATCH)
        count = count_step(self.module.train(), lambda module: loss(module, batch))
        self.ledger.stage(f"slice {number + 1}", count)
        self.seen(None)
        for _ in range(self.plan.steps):
            self.update(part.batch(BATCH, self.draw))
            if self.step % self.plan.every:
                continue
            decision = trigger.update(loss=self.held_out(), step=self.step)
            self.seen(decision.signal)
            if decision:
                self.log(
                    "saturated", f"step {self.step}: saturated, {decision.reason}",
                    step=self.step, reason=decision.reason,
                )  # fmt: skip
                return
        self.log("limit", f"step {self.step}: the slice's steps are used up", step=self.step)

    def update(self, windows: Tensor) -> None:
        begun = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / WARM_UP)
        self.module.train()
        self.optimizer.zero_grad()
        loss(self.module, windows).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.ledger.step(tokens=windows[:, 1:].numel(), seconds=time.perf_counter() - begun)

    def grow(self, number: int) -> None:
        """The larger model computes the same; AdamW goes on with what it knows of the old weights."""
        before, parameters, begun = self.held_out(), self.parameters, time.perf_counter()
        growth = self.plan.growths[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.export, about its own internals
            model = meristem.trace(self.module.eval(), (self.text.windows(2)[:, :-1],))
            grown = meristem.grow(model, growth["sizes"], method=growth["method"])
            self.module = grown.module()
        self.optimizer = grown.optimizer(self.optimizer, new="mean", module=self.module)
        took = time.perf_counter() - begun
        self.ledger.growth(f"growth {number + 1}", seconds=took)
        after = self.held_out()
        sizes = ", ".join(f"{kind} {size}" for kind, size in growth["sizes"].items())
        self.log(
            "growth",
            f"step {self.step}: grown by {growth['method']}: {sizes}; {parameters:,} -> "
            f"{self.parameters:,} parameters, held-out loss {before:.4f} -> {after:.4f}",
            step=self.step, sizes=growth["sizes"], method=growth["method"], before=before, after=after,
            parameters=self.parameters, took=took,
        )  # fmt: skip

    def seen(self, signal: float | None) -> None:
        value = self.held_out()
        self.ledger.record(value)
        text = (
            ""
            if self.step % (5 * self.plan.every)
            else f"step {self.step}: held-out loss {value:.4f}"
        )
        self.log("loss", text, step=self.step, loss=value, signal=signal, flops=self.ledger.flops)

    def held_out(self) -> float:
        self.module.eval()
        with torch.no_grad():
            return float(loss(self.module, self.text.windows(48)))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def picture(events: list[dict[str, Any]], tolerance: float, path: Path) -> None:
    """Loss and size against steps: slices as bands, growths as lines."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        sys.exit("the picture needs matplotlib: pip install matplotlib, or give --no-picture")
    mpl.use("agg")
    from matplotlib import pyplot as plt

    losses = [e for e in events if e["event"] == "loss"]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    top.plot([e["step"] for e in losses], [e["loss"] for e in losses], color="#222222")
    low = min(e["loss"] for e in losses)
    top.set_ylim(
        low - 0.05, min(low + 1.2, max(e["loss"] for e in losses))
    )  # the first steps are above
    known = [e for e in losses if e["signal"] is not None]
    bottom.plot([e["step"] for e in known], [e["signal"] for e in known], ".", color="#222222")
    bottom.axhline(tolerance, color="#b4531f", linewidth=0.8, linestyle="--")
    slices = [e for e in events if e["event"] == "slice"]
    ends = [e["step"] for e in slices[1:]] + [events[-1]["step"]]
    for number, (part, end) in enumerate(zip(slices, ends, strict=True)):
        for ax in (top, bottom):
            ax.axvspan(part["step"], end, color="#0b62a4", alpha=0.05 + 0.05 * number, linewidth=0)
        text = f"{part['kilobytes']} kB\n{part['parameters']:,}"
        top.annotate(
            text, (part["step"], 0.98), (4, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip
    for growth in (e for e in events if e["event"] == "growth"):
        for ax in (top, bottom):
            ax.axvline(growth["step"], color="#b4531f", linewidth=1.5)
        sizes = "\n".join(f"{kind} {size}" for kind, size in growth["sizes"].items())
        top.annotate(
            sizes, (growth["step"], 0.5), (4, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="center", fontsize=8, color="#b4531f",
        )  # fmt: skip
    top.set_ylabel("held-out loss, nats per byte")
    bottom.set_ylabel("gain")
    bottom.set_xlabel("steps; lines are growths, bands are texts with the number of parameters")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-growth", action="store_true")
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    given = parser.parse_args()
    plan = SMOKE if given.smoke else FULL
    pipeline = Pipeline(plan, standard_library(), given.seed, not given.without_growth)
    pipeline.run()
    given.out.mkdir(parents=True, exist_ok=True)
    name = "self_improve" + ("_without_growth" if given.without_growth else "")
    kept = {"events": pipeline.log.events, "ledger": pipeline.ledger.data()}
    (given.out / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    if not given.no_picture:
        picture(pipeline.log.events, plan.tolerance, given.out / f"{name}.png")


if __name__ == "__main__":
    main()
