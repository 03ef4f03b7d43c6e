"""What commands print, for people (tables that fit 80 columns) and for machines (stable keys)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from meristem.pages.growth import alike
from meristem.pages.words import pattern, places

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.rewrite.dimensions import Dimension

WIDTH = 80


# -- dimensions ------------------------------------------------------------------------------------


def inspection(model: Model, path: Path, shown: Sequence[Dimension]) -> RenderableType:
    """Everything that ``meristem inspect`` says."""
    head = Text(f"{path.name}: {model.side.name}, {model.parameters:,} parameters\n")
    remarks = [Text(f"note: {note}", style="dim") for note in notes(model)]
    return Group(head, *dimension_tables(shown), *remarks)


def inspection_data(model: Model, path: Path, shown: Sequence[Dimension]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "model": str(path),
        "carrier": model.side.name,
        "parameters": model.parameters,
        "dimensions": [dimension_data(d) for d in shown],
        "notes": notes(model),
    }


def dimension_data(d: Dimension) -> dict[str, Any]:
    """One dimension as JSON-ready data; ``pinned`` is null or the reason."""
    return {
        "name": d.name,
        "kind": d.kind,
        "place": d.place,
        "size": d.size,
        "pinned": d.pinned,
        "boundary": d.boundary,
        "weights": [list(pair) for pair in d.weights],
    }


def notes(model: Model) -> list[str]:
    """What reading the model changed or could not know."""
    carrier = model.carrier
    return [*getattr(carrier, "normalisations", ()), *getattr(carrier, "lost", ())]


def dimension_tables(dimensions: Sequence[Dimension]) -> list[RenderableType]:
    """What grows, then what is pinned and by what."""
    free = _table("kind", "place", ">size", ">weights")
    pinned = _table("kind", "place", ">size", "pinned because")
    for kind, place, size, weights, reason in rows(dimensions):
        if reason:
            pinned.add_row(kind, place, str(size), reason)
        else:
            free.add_row(kind, place, str(size), str(weights))
    out: list[RenderableType] = [free] if free.row_count else [Text("nothing can grow")]
    if pinned.row_count:
        out += [Text(), pinned]
    return out


def rows(dimensions: Sequence[Dimension]) -> list[tuple[str, str, int, int, str]]:
    """(kind, places, size, number of weights, reason); places that differ in numbers merge."""
    groups: dict[tuple[str, str, int, str], list[Dimension]] = {}
    for d in dimensions:
        key = (d.kind, pattern(d.place), d.size, pattern(d.pinned or ""))
        groups.setdefault(key, []).append(d)
    out = []
    for (kind, _, size, reason), members in groups.items():
        why = (members[0].pinned or "") if len(members) == 1 else reason
        place = places([d.place for d in members])
        out.append((kind, place, size, sum(len(d.weights) for d in members), why))
    return out


def dimension_text(model: Model, width: int = WIDTH) -> str:
    """The tables as plain text, for ``print(model)``."""
    return plain(*dimension_tables(model.dimensions), width=width)


def plain(*parts: RenderableType, width: int = WIDTH) -> str:
    """What a terminal of ``width`` columns without colours shows."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            name.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    return table


# -- growth ----------------------------------------------------------------------------------------


def growth(
    model: Model, grown: Model, path: Path, written: Sequence[Path], report: Any
) -> RenderableType:
    """What ``meristem grow`` did."""
    before, after = model.parameters, grown.parameters
    parts: list[RenderableType] = [changes(grown.plan)]
    parts.append(Text(f"\nparameters {before:,} -> {after:,} (x{after / before:.2f})"))
    for title, lines in (
        ("operators added", grown.plan.added),
        ("copies that training keeps equal", grown.plan.locked),
        ("new weights that cannot train", grown.plan.saddles),
        ("note", grown.plan.notes),
    ):
        parts += [Text(f"{title}: {line}") for line in lines]
    if report is not None:
        parts += [Text(), verification(report)]
    parts += [Text(f"wrote {p}") for p in written]
    if not written:
        parts.append(Text(unwritten(report), style="bold"))
    return Group(*parts)


def unwritten(report: Any) -> str:
    """Why a growth that was verified left no file."""
    if any(v.checked for v in report.levels.values()):
        return "nothing was written, because the function differs"
    return "nothing was written, because nothing could be checked; leave out --verify to write it"


def growth_data(
    model: Model, grown: Model, path: Path, written: Sequence[Path], report: Any
) -> dict[str, Any]:
    """The same for machines."""
    plan = grown.plan
    assert plan is not None
    return {
        "model": str(path),
        "written": [str(p) for p in written],
        "parameters": {"before": model.parameters, "after": grown.parameters},
        "options": plan.options,
        "changes": [
            {
                "name": c.name, "kind": c.kind, "place": c.place, "before": c.before,
                "after": c.after, "strategies": list(c.strategies),
            }
            for c in plan.changes
        ],
        "added": list(plan.added),
        "locked": list(plan.locked),
        "saddles": list(plan.saddles),
        "notes": list(plan.notes),
        "verification": None if report is None else verification_data(report),
    }  # fmt: skip


def changes(plan: Any) -> RenderableType:
    """Sizes before and after; changes that differ in numbers of blocks alone share a row."""
    found = alike(plan.changes)
    if not found:
        return Text("every size is today's: nothing grows")
    table = _table("kind", "place", ">size", "", ">new", "how")
    for c, place in found:
        how = ", ".join(c.strategies) if c.kind != "layers" else "new blocks"
        table.add_row(c.kind, place, str(c.before), "->", str(c.after), how)
    return table


# -- verification ----------------------------------------------------------------------------------


def verification(report: Any) -> RenderableType:
    """For each level its verdict, and the measurement that comes nearest to its limit; then the errors of
    the outputs that come nearest to theirs."""
    from meristem.verify.statistics import worst_rows

    table = _table("level", "verdict", ">error", ">limit", "where it comes nearest")
    remarks = []
    for name, v in report.levels.items():
        worst = v.worst
        if worst is None:
            table.add_row(name, v.word, "", "", "")
        else:
            table.add_row(name, v.word, f"{worst.error:.1e}", f"{worst.limit:.1e}", worst.what)
        if v.reason:
            remarks.append(f"{name}: {v.reason}")
        remarks += [f"{name}: {note}" for note in v.notes]
    words = report.headline
    # What str(report) and JSON have besides (mean, median, the original's SQNR) does not fit 80 columns.
    errors = _table("output", ">max", ">x own", ">99%", ">SQNR", ">top-1")
    for row in worst_rows(s for v in report.levels.values() for s in v.statistics):
        output, largest, own, _, _, most, sqnr, _, agreement = row
        errors.add_row(output, largest, own, most, sqnr, agreement)
    parts = [table, errors] if errors.row_count else [table]
    return Group(*parts, *(Text(r, style="dim") for r in remarks), Text(words, style="bold"))


def verification_data(report: Any) -> dict[str, Any]:
    """``ok``, ``headline`` and, by level, word, reason, measures, inputs and notes."""
    data: dict[str, Any] = json.loads(report.to_json())
    return data
