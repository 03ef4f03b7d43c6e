"""Tables that fit a terminal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from meristem.model import Model


def dimension_table(model: Model) -> Table:
    """Dimensions grouped by kind and size; places that follow one another share a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("kind")
    table.add_column("place", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("weights", justify="right")
    table.add_column("pinned", overflow="fold", style="dim")
    for kind, places, size, weights, pinned in rows(model):
        table.add_row(kind, places, str(size), str(weights), pinned)
    return table


def rows(model: Model) -> list[tuple[str, str, int, int, str]]:
    """(kind, places, size, number of weights, reason) with equal neighbours merged."""
    groups: dict[tuple[str, str, int, str], list[tuple[str, int]]] = {}
    for d in model.dimensions:
        key = (d.kind, _pattern(d.place), d.size, _pattern(d.pinned or ""))
        groups.setdefault(key, []).append((d.place, len(d.weights)))
    out = []
    for (kind, pattern, size, pinned), members in groups.items():
        place = members[0][0] if len(members) == 1 else f"{pattern} ({len(members)})"
        out.append((kind, place, size, sum(n for _, n in members), pinned))
    return out


def _pattern(place: str) -> str:
    """Numbers of repeated blocks become a star."""
    return ".".join("*" if part.isdigit() else part for part in place.split("."))


def dimension_text(model: Model, width: int = 100) -> str:
    """The table as plain text."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(dimension_table(model))
    return out.getvalue().rstrip()
