"""What ``meristem search`` prints."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meristem.training.study.trials import FAILED, INFEASIBLE, Found, Trial

# Reasons that are listed one by one.
MOST = 5


def front(found: Found, files: list[str]) -> RenderableType:
    """The front as a table, then what failed and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("trial", "loss", "FLOPs", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("schedule")
    for t in found.front:
        assert t.loss is not None
        assert t.flops is not None
        table.add_row(
            str(t.number), f"{t.loss:.4f}", f"{t.flops:.3g}", _saved(found, t), Text(str(t))
        )
    counts = Counter(t.state for t in found.trials)
    head = Text(
        "The front of loss against compute. Saved: FLOPs against training from scratch\nto the same loss, "
        "between the runs from scratch; ? where they do not come to it.\n"
    )
    tail = Text(f"\n{', '.join(f'{n} {state}' for state, n in sorted(counts.items()))} trials")
    parts = [head, table, tail, *_reasons(found, FAILED), *_reasons(found, INFEASIBLE)]
    return Group(*parts, *(Text(f"written: {name}") for name in files))


def line(t: Trial) -> str:
    """One trial, as it is told on standard error."""
    result = (
        f"loss {t.loss:.4f} at {t.flops:.3g} FLOPs"
        if t.loss is not None
        else f"{t.state}: {t.reason}"
    )
    return f"trial {t.number}: {result}  ({t})" if t.schedule else f"trial {t.number}: {result}"


def _saved(found: Found, t: Trial) -> str:
    if t.scratch:
        return ""
    share = found.saved(t)
    return "?" if share is None else f"{share:.0%}"


def _reasons(found: Found, state: str) -> list[Text]:
    """Why trials have no result, the most frequent reasons first."""
    counts = Counter(t.reason for t in found.trials if t.state == state)
    out = [Text(f"{state}, {n}x: {reason}") for reason, n in counts.most_common(MOST)]
    more = len(counts) - MOST
    return [*out, Text(f"{state}: {more} other reasons in the file")] if more > 0 else out


__all__ = ["front", "line"]
