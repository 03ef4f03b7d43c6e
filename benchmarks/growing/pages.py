"""docs/training/benchmark.md and its pictures, from stored runs."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from growing.report import FLOPS, LOSS, outcomes, stored, table
from growing.table import ROWS, SIZES, Row

INK, GREY, BLUE, RUST = "#222222", "#c9c9c9", "#0b62a4", "#b4531f"
MARKED = re.compile(r"(<!-- numbers -->\n).*?(<!-- end of numbers -->)", re.DOTALL)


def write(store: Any, folder: Path) -> None:
    """The numbers between two marks of the page, and two pictures."""
    page = folder / "benchmark.md"
    page.write_text(MARKED.sub(lambda m: m[1] + numbers(store) + m[2], page.read_text()))
    curves(store, folder / "benchmark.png")
    speed_ups(store, folder / "benchmark-speed-up.png")


def numbers(store: Any) -> str:
    """What stands between the marks."""
    return f"{facts(store)}\n\n{table(store)}\n"


def facts(store: Any) -> str:
    """What was run, from what is stored with the runs."""
    scratch = list(stored(store, ROWS["scratch"]).values())
    if not scratch:
        return "Nothing is stored yet."
    one, size = scratch[0], SIZES[store.size]
    machine = one["machine"]
    seconds = statistics.fmean(r["processor_seconds"] for r in scratch)
    wall = statistics.fmean(r["wall_seconds"] for r in scratch)
    return (
        f"{one['parameters']:,} parameters, {one['tokens']:,} bytes seen, {one['flops']:.3g} FLOPs "
        f"from scratch, {seconds:.0f} s of processor and {wall:.0f} s of wall time; rate {store.rate():g}; "
        f"batch {size.batch} of {size.shape.context}; {one['config']['corpus']}; torch {machine['torch']}, "
        f"{machine.get('device', machine['system'])}, {machine['threads']} thread."
    )


def plots() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    return plt


def curves(store: Any, path: Path) -> None:
    """One panel for each row: every seed, the scratch runs behind them, growths as dots."""
    rows = [r for r in ROWS.values() if r.name != r.against and stored(store, r)]
    if not rows:
        return
    plt = plots()
    columns = 4
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(11, 2.4 * lines), sharex=True, sharey=True, squeeze=False
    )
    ends = [r["points"][-1][LOSS] for row in rows for r in stored(store, row).values()]
    for ax, row in zip(axes.flat, rows, strict=False):
        panel(ax, store, row)
        ax.set_title(row.name, color=colour(row), fontsize=9, loc="left")
        ax.set_ylim(min(ends) - 0.05, min(ends) + 1.1)
    for ax in axes.flat[len(rows) :]:
        ax.axis("off")
    figure.supxlabel(
        "FLOPs of what was trained so far, the small models' included; 1 is the scratch run"
    )
    figure.supylabel("held-out loss, nats per byte")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def panel(ax: Any, store: Any, row: Row) -> None:
    for result in stored(store, ROWS[row.against]).values():
        budget = result["flops"]
        ax.plot(*line(result, budget), color=INK, linewidth=0.6)
    for result in stored(store, row).values():
        budget = result["scratch_flops"]
        ax.plot(*line(result, budget), color=colour(row), linewidth=1.0)
        for growth in result["growths"]:
            ax.plot(
                growth["flops"] / budget,
                growth["loss_before"],
                "o",
                color=colour(row),
                markersize=3,
            )


def line(result: dict[str, Any], budget: float) -> tuple[list[float], list[float]]:
    points = result["points"]
    return [p[FLOPS] / budget for p in points], [p[LOSS] for p in points]


def colour(row: Row) -> str:
    return BLUE if row.half else RUST


def speed_ups(store: Any, path: Path) -> None:
    """Every seed is a dot; a seed that did not reach the loss stands in the column at the left."""
    rows = [r for r in ROWS.values() if not r.wsd and r.name != r.against and outcomes(store, r)]
    if not rows:
        return
    plt = plots()
    figure, (left, ax) = plt.subplots(
        1, 2, figsize=(8, 0.5 + 0.32 * len(rows)), sharey=True, width_ratios=[1, 6]
    )
    for height, row in enumerate(reversed(rows)):
        for seed, run in enumerate(outcomes(store, row)):
            if run.speed_up is None:
                left.plot(seed, height, "x", color=colour(row))
            else:
                ax.plot(100 * run.speed_up, height, "o", color=colour(row), alpha=0.7)
    left.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    left.set_xticks([])
    left.set_xlim(-1, 3)
    left.set_xlabel("never")
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.grid(axis="y", color=GREY, linewidth=0.4)
    ax.set_xlabel(
        "speed-up in percent: FLOPs from scratch / FLOPs grown - 1, at the scratch run's final loss"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
