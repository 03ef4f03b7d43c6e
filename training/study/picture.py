"""The front of loss against compute as a picture."""

from __future__ import annotations

from pathlib import Path

from meristem.rewrite.errors import OutputError
from meristem.training.optional import needed
from meristem.training.study.trials import Found

GROWN, SCRATCH = "#2a7f3f", "#888888"


def draw(found: Found, path: str | Path) -> Path:
    """Every trial with its curve, runs from scratch, and the front; a PNG, or what the suffix says.

    Raises RuntimeUnavailable without matplotlib, OutputError where the file cannot be written.
    """
    figures = needed("matplotlib.figure", "search", "the picture of a search")
    agg = needed("matplotlib.backends.backend_agg", "search", "the picture of a search")
    figure = figures.Figure(figsize=(7, 4.5), layout="constrained")
    agg.FigureCanvasAgg(figure)  # no display
    axes = figure.subplots()
    for t in found.complete:
        color = SCRATCH if t.scratch else GROWN
        axes.plot(*zip(*t.curve, strict=True), color=color, alpha=0.25, linewidth=1)
    for scratch, color, marker, word in (
        (False, GROWN, "o", "grown"),
        (True, SCRATCH, "s", "from scratch"),
    ):
        ends = [(t.flops, t.loss) for t in found.complete if t.scratch == scratch]
        if ends:
            axes.scatter(*zip(*ends, strict=True), color=color, marker=marker, label=word, zorder=3)
    front = [(t.flops, t.loss) for t in found.front]
    if front:
        axes.plot(*zip(*front, strict=True), color="black", linewidth=1.2, label="front", zorder=2)
    for t in found.front:
        axes.annotate(str(t.number), (t.flops, t.loss), xytext=(4, 4), textcoords="offset points")
    spent = [c for t in found.complete for c, _ in t.curve]
    if spent and max(spent) > 10 * min(spent):
        axes.set_xscale("log")
    axes.set_xlabel("FLOPs, all stages together")
    axes.set_ylabel("loss")
    axes.set_title("Growth schedules: loss against compute")
    if front:
        axes.legend()
    path = Path(path)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be drawn: {error}", path=str(path)) from error
    return path


__all__ = ["draw"]
