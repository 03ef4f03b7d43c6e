"""Draws docs/methods.png: loss against steps after growth for every method, on one small run, three seeds.

A decoder over the bytes of Python's standard library trains for some steps, is grown, and trains on with a
new optimizer; its held-out loss is measured on the way. One panel for each method, in grey all the others.
Run by `make pictures`; finished runs are kept under build/, so an interrupted one goes on.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from meristem.demo_text import Text, loss, standard_library
from meristem.rewrite.errors import MeristemError

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "build" / "methods"
BEFORE, AFTER, EVERY, BATCH, TIME, RATE = 400, 200, 20, 8, 48, 3e-3
SEEDS = (0, 1, 2)
WIDTH = {"mlp": "x4"}
DEPTH = {"layers": "x2"}
METHODS: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        (
            "preserve", "net2wider", "lemon", "clone", "clone:noise=0.3", "pair", "fpi", "aki", "rms",
            "masked", "gradmax", "fuse", "learned:steps=50",
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        ("identity", "cancel", "stack", "stack:order=interleave", "stack:order=overlap", "split"), DEPTH
    ),
}  # fmt: skip
# Not methods: the larger models from the start, and the small one without growth.
ELSE = ("scratch, wide", "scratch, deep", "no growth")


class Block(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, units), nn.Linear(units, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, 4, -1).unbind(2)
        heads = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    def __init__(self, layers: int = 2, units: int = 48, width: int = 48) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(256, width), nn.Embedding(96, width)
        self.blocks = nn.Sequential(*(Block(width, units) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.places(places))))


def held_out(module: nn.Module, text: Text) -> float:
    module.eval()
    with torch.no_grad():
        return float(loss(module, text.windows(24)[:, : TIME + 1]))


def train(module: nn.Module, text: Text, steps: int, seed: int, offset: int = 0) -> list[float]:
    """Held-out losses, before the first step and after every few."""
    draw = torch.Generator().manual_seed(seed * 1000 + offset)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    out = [held_out(module, text)]
    for step in range(1, steps + 1):
        if hasattr(module, "growth_mask"):
            module.growth_mask.fill_(min(1.0, 2 * step / steps))
        value = loss(module.train(), text.batch(BATCH, draw)[:, : TIME + 1])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % EVERY == 0:
            out.append(held_out(module, text))
    return out


def small(text: Text, seed: int) -> Decoder:
    path = RUNS / f"small-{seed}.pt"
    torch.manual_seed(seed)
    module = Decoder()
    if path.exists():
        module.load_state_dict(torch.load(path))
    else:
        train(module, text, BEFORE, seed)
        torch.save(module.state_dict(), path)
    return module.eval()


def run(name: str, text: Text, seed: int) -> list[float] | str:
    """The losses after growth, or why the method does not apply."""
    if name in ELSE:
        torch.manual_seed(seed)
        module = Decoder(4 if "deep" in name else 2, 192 if "wide" in name else 48)
        if name == "no growth":
            module = small(text, seed)
        else:
            train(module, text, BEFORE, seed)
        return train(module, text, AFTER, seed, 1)
    window = text.windows(4)[:, :TIME]
    model = meristem.trace(small(text, seed), (window,))
    draw = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {}
    if name.startswith(("learned", "gradmax")):
        given["loss"] = lambda m: loss(m, text.batch(BATCH, draw)[:, : TIME + 1])
    if name == "fuse":
        others = [small(text, s) for s in range(seed + 1, seed + 4)]
        given["models"] = [meristem.trace(m, (window,)) for m in others]
    try:
        grown = meristem.grow(model, METHODS[name], method=name, seed=seed, **given)
    except MeristemError as error:
        return str(error)
    return train(grown.module(), text, AFTER, seed, 1)


def results() -> dict[str, list[Any]]:
    RUNS.mkdir(parents=True, exist_ok=True)
    text = standard_library()
    out: dict[str, list[Any]] = {}
    for name in (*METHODS, *ELSE):
        for seed in SEEDS:
            path = RUNS / f"{name.replace(':', '-').replace(', ', '-')}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(run(name, text, seed)))
            out.setdefault(name, []).append(json.loads(path.read_text()))
            sys.stderr.write(f"{name}, seed {seed}\n")
    return out


def draw(runs: dict[str, list[Any]], path: Path) -> None:
    """Small multiples: the mean over seeds and their range."""
    steps = [EVERY * i for i in range(AFTER // EVERY + 1)]
    ink, grey, wide, deep = "#222222", "#c9c9c9", "#0b62a4", "#b4531f"
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    columns = 5
    rows = -(-len(METHODS) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.1 * rows), sharex=True, sharey=True)
    low = min(min(r) for rs in runs.values() for r in rs if not isinstance(r, str))
    first = max(r[0] for r in runs["no growth"])
    for ax, name in zip(axes.flat, METHODS, strict=False):
        color = wide if METHODS[name] is WIDTH else deep
        other = "scratch, wide" if METHODS[name] is WIDTH else "scratch, deep"
        for rival in METHODS:
            if METHODS[rival] is METHODS[name] and not isinstance(runs[rival][0], str):
                ax.plot(steps, mean(runs[rival]), color=grey, linewidth=0.6)
        ax.plot(steps, mean(runs["no growth"]), color=ink, linewidth=0.8, linestyle=":")
        ax.plot(steps, mean(runs[other]), color=ink, linewidth=0.8, linestyle="--")
        own = runs[name]
        if not isinstance(own[0], str):
            ax.fill_between(
                steps, [min(c) for c in zip(*own, strict=True)], [max(c) for c in zip(*own, strict=True)],
                color=color, alpha=0.2, linewidth=0,
            )  # fmt: skip
            ax.plot(steps, mean(own), color=color, linewidth=1.5)
        ax.set_title(name, color=color, fontsize=9, loc="left")
        ax.set_ylim(low - 0.03, first + 0.35)
    for ax in axes.flat[len(METHODS) :]:
        ax.axis("off")
    note = axes.flat[-1]
    note.text(
        0, 0.95,
        "colour: mean and range of three seeds\ngrey: the other methods\ndashed: the larger model from\n"
        "the start, after as many steps\ndotted: no growth",
        va="top", transform=note.transAxes,
    )  # fmt: skip
    figure.supxlabel("steps after growth")
    figure.supylabel("held-out loss, nats per byte")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def mean(runs: list[list[float]]) -> list[float]:
    return [sum(c) / len(c) for c in zip(*runs, strict=True)]


def table(runs: dict[str, list[Any]]) -> str:
    """The same numbers for a page."""
    lines = [
        "| method | at growth | after 100 | after 200 | range at the end |",
        "|---|---|---|---|---|",
    ]
    for name, own in runs.items():
        if isinstance(own[0], str):
            lines.append(f"| `{name}` | refused | | | |")
            continue
        at = [mean(own)[i] for i in (0, 100 // EVERY, -1)]
        ends = sorted(r[-1] for r in own)
        lines.append(
            f"| `{name}` | {at[0]:.3f} | {at[1]:.3f} | {at[2]:.3f} | {ends[0]:.3f} to {ends[-1]:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    mpl.use("svg")
    runs = results()
    draw(runs, ROOT / "docs" / "methods.png")
    sys.stdout.write(
        f"torch {torch.__version__}, Python {platform.python_version()}\n{table(runs)}\n"
    )


if __name__ == "__main__":
    main()
