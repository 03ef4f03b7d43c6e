"""Small pieces of HTML for notebooks: ``_repr_html_`` of models, plans and reports.

Text is escaped, and colours are those of the notebook: lines and muted words are its own ink made thinner,
so that a dark one needs nothing else. Nothing here is for pages; those have templates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

# Rows that a cell shows; the rest is counted.
MOST = 20
_LINE = "1px solid color-mix(in srgb, currentColor 22%, transparent)"
_MUTED = "opacity:.7"
_CELL = "padding:.2em .9em .2em 0;text-align:{};vertical-align:top;border:0;background:none"


def box(title: str, *parts: str) -> str:
    """A titled box; ``parts`` are HTML already."""
    head = f'<div style="font-weight:600;margin-bottom:.3em">{escape(title)}</div>'
    style = f"border:{_LINE};border-radius:8px;padding:.6em .9em;margin:.2em 0;max-width:60em"
    return f'<div class="meristem" style="{style};overflow-x:auto">{head}{"".join(parts)}</div>'


def line(text: str, *, muted: bool = False) -> str:
    """A paragraph."""
    return f'<div style="{_MUTED if muted else "margin:.1em 0"}">{escape(text)}</div>'


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns whose name begins with ``>`` hold numbers."""
    found = list(rows)
    sides = ["right" if name.startswith(">") else "left" for name in columns]
    head = "".join(
        f'<th scope="col" style="{_CELL.format(side)};{_MUTED};font-weight:600">'
        f"{escape(name.removeprefix('>'))}</th>"
        for name, side in zip(columns, sides, strict=True)
    )
    body = "".join(
        f'<tr style="border-top:{_LINE};background:none">'
        + "".join(
            f'<td style="{_CELL.format(side)}">{escape(str(cell))}</td>'
            for cell, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in found[:MOST]
    )
    more = line(f"and {len(found) - MOST} rows more", muted=True) if len(found) > MOST else ""
    title = f'<caption style="text-align:left;{_MUTED};padding:0">{escape(caption)}</caption>'
    return (
        f'<table style="border-collapse:collapse;font-size:.95em;margin:.3em 0">{title}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


__all__ = ["MOST", "box", "line", "table"]
