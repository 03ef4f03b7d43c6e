"""Pictures with matplotlib, for notebooks and papers: the blocks of a model, and histograms of errors.

    from meristem import pictures

    pictures.blocks(grown, before=model).savefig("blocks.svg")
    pictures.errors(report).savefig("errors.png")

Matplotlib is in ``pip install "meristem[pictures]"``. Figures are made without pyplot, so nothing global
changes and nothing has to be closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meristem.rewrite.errors import MeristemError
from meristem.training.optional import needed

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.pages.parts import Part

_OLD, _NEW, _INK = "#6b7770", "#17693f", "#1a211d"


def blocks(model: Model, before: Model | None = None) -> Any:
    """A bar for every part of the model: how many parameters it reads, in the order of the program.

    The parts of a stack are those of all its blocks together. With ``before``, the model that grew, what is
    new stands hatched at the end of its bar. Returns a matplotlib Figure. Raises RuntimeUnavailable without
    matplotlib.
    """
    rows = _parts(model)
    old = {name: count for name, _, count in _parts(before)} if before is not None else {}
    figure, axes = _figure(0.6 + 0.34 * len(rows))
    for i, (name, _, count) in enumerate(rows):
        was = min(old.get(name, 0), count) if before is not None else count
        axes.barh(i, was, color=_OLD, height=0.62)
        if count > was:
            axes.barh(
                i, count - was, left=was, height=0.62, color="white", edgecolor=_NEW, hatch="////"
            )
    axes.set_yticks(range(len(rows)), [f"{name}  {sizes}".strip() for name, sizes, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("parameters" + (" (hatched: new)" if before is not None else ""))
    return figure


def errors(report: Any) -> Any:
    """Histograms of errors of a verification, one row for each output and setting that has statistics.

    The abscissa is the power of ten of an entry's error, 0 where nothing differs and inf where
    it is infinite or no number; counts are logarithmic.
    Returns a matplotlib Figure. Raises MeristemError where the report has no statistics, RuntimeUnavailable
    without matplotlib.
    """
    from meristem.pages.charts import ordered

    found = [s for v in report.levels.values() for s in v.statistics if s.histogram]
    if not found:
        raise MeristemError(
            "this report has no statistics of errors: deployment was not checked; verify with a runtime"
        )
    figure, grid = _figure(1.0 + 1.5 * len(found), rows=len(found))
    for axes, s in zip(grid if len(found) > 1 else [grid], found, strict=True):
        labels, counts, _ = zip(*ordered(s.histogram), strict=True)
        axes.bar(range(len(counts)), counts, color=_NEW, width=0.8)
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yscale("log")
        axes.set_ylabel("entries")
        axes.set_title(f"{s.output}: {s.setting}", loc="left", fontsize=9, color=_INK)
    return figure


def _parts(model: Model) -> list[tuple[str, str, int]]:
    """(name, sizes, parameters) of the parts of a picture."""
    from meristem.pages.parts import Tower, find_picture

    picture = find_picture(model.graph, model.equations, model.stacks.values(), model.dimensions)
    out: list[tuple[str, str, int]] = []
    for row in picture.rows:
        if isinstance(row, Tower):
            for v in row.variants:
                out += [
                    (f"{p.title} ({p.place or row.place})", f"{_sizes(p)} ×{len(v.numbers)}",
                     p.parameters * len(v.numbers))
                    for p in v.parts
                ]  # fmt: skip
        else:
            out.append(
                (
                    f"{row.title} ({row.place})" if row.place else row.title,
                    _sizes(row),
                    row.parameters,
                )
            )
    return out


def _sizes(part: Part) -> str:
    return ", ".join(f"{s.kind} {s.after}" for s in part.sizes[:4])


def _figure(height: float, rows: int = 1) -> tuple[Any, Any]:
    figure = needed("matplotlib.figure", "pictures", "a picture").Figure(
        figsize=(8, height), layout="constrained"
    )
    grid = figure.subplots(rows, 1)
    for axes in grid if rows > 1 else [grid]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


__all__ = ["blocks", "errors"]
