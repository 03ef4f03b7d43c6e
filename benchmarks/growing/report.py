"""From stored runs to numbers: FLOPs and time to the scratch run's final loss, seed by seed."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from typing import Any

from growing.table import ROWS, SIZES, Row

FLOPS, STEP, LOSS, SECONDS, WALL = range(5)
# A held-out loss under a constant rate is noisy; three marks in a row are taken together.
WINDOW = 3


@dataclass(frozen=True)
class Outcome:
    """One seed of one row against the scratch run of this seed.

    ``share`` (of FLOPs), ``seconds`` (of processor time) and ``wall`` (of wall time) are of what the
    scratch run needed, None where its loss was not reached;
    ``gap`` is the final loss minus the scratch run's, ``spent`` all FLOPs over the scratch run's.
    """

    share: float | None
    seconds: float | None
    gap: float
    spent: float
    jump: float
    wall: float | None = None

    @property
    def speed_up(self) -> float | None:
        """FLOPs_scratch / FLOPs_grown - 1, the small model's included."""
        return None if self.share is None else 1 / self.share - 1


def smooth(result: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """(FLOPs, loss, seconds of processor and of wall time) at the marks behind the last growth; losses are
    those of the last three.

    Both sides of a comparison are smoothed alike, so the delay of a trailing mean is in both.
    """
    setting = result["config"]["setting"]
    mark = result["scratch_flops"] / setting["marks"]
    start = max((g["flops"] for g in result["growths"]), default=0.0)
    # A mark is noticed at the first step behind it; other points are ends of stages.
    slack = 1.5 * setting["marks"] / setting["steps"]
    kept = [
        p for p in result["points"]
        if p[FLOPS] > start and (p[FLOPS] / mark + 1e-3) % 1 < slack
    ]  # fmt: skip
    out = []
    for end in range(WINDOW, len(kept) + 1):
        loss = statistics.fmean(p[LOSS] for p in kept[end - WINDOW : end])
        last = kept[end - 1]
        out.append((last[FLOPS], loss, last[SECONDS], last[WALL]))
    return out


def final(result: dict[str, Any]) -> float:
    """The loss at the end: under a rate that decays to zero the last one, else the smoothed one."""
    if result["config"]["wsd"]:
        return result["points"][-1][LOSS]
    return smooth(result)[-1][1]


def outcome(result: dict[str, Any], scratch: dict[str, Any]) -> Outcome:
    target = final(scratch)
    gap, spent = final(result) - target, result["flops"] / scratch["flops"]
    jump = sum(g["loss_after"] - g["loss_before"] for g in result["growths"])
    share = seconds = wall = None
    if result["config"]["wsd"]:
        if gap <= 0:
            share = spent
            seconds = result["processor_seconds"] / scratch["processor_seconds"]
            wall = result["wall_seconds"] / scratch["wall_seconds"]
        return Outcome(share, seconds, gap, spent, jump, wall)
    points = smooth(result)
    for i, point in enumerate(points):
        if point[1] > target:
            continue
        at = point
        if i:  # between two marks: a straight line
            before = points[i - 1]
            part = (before[1] - target) / (before[1] - point[1])
            at = tuple(a + part * (b - a) for a, b in zip(before, point, strict=True))
        share = at[0] / scratch["flops"]
        seconds, wall = at[2] / scratch["processor_seconds"], at[3] / scratch["wall_seconds"]
        break
    return Outcome(share, seconds, gap, spent, jump, wall)


def stored(store: Any, row: Row) -> dict[int, dict[str, Any]]:
    """The finished runs at the tuned rate, by seed."""
    rate = store.rate()
    if rate is None:
        return {}
    found = {seed: store.get(row, rate, seed) for seed in range(100)}
    return {seed: result for seed, result in found.items() if result}


def outcomes(store: Any, row: Row) -> list[Outcome]:
    scratch = stored(store, ROWS[row.against])
    return [outcome(r, scratch[s]) for s, r in stored(store, row).items() if s in scratch]


def spread(values: list[float], form: str) -> str:
    """The mean, and the range over seeds."""
    if not values:
        return ""
    mean, low, high = (shown(v, form) for v in (statistics.fmean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def shown(value: float, form: str) -> str:
    """A number in its form, without the sign of what is rounded to zero."""
    text = form.format(value)
    return text if re.search("[1-9]", text) else form.format(0.0).lstrip("+")


def table(store: Any) -> str:
    """Three tables in Markdown: tuning, runs at a constant rate, runs under WSD."""
    lines = ["| learning rate from scratch, seed 0 | final loss |", "|---|---|"]
    lines += [f"| {rate:g} | {loss:.3f} |" for rate, loss in sorted(store.rates().items())]
    if store.rate() is None:
        return "\n".join([*lines, "", "the grid is not complete"])
    lines += ["", *constant(store), "", *decaying(store)]
    return "\n".join(lines)


def constant(store: Any) -> list[str]:
    lines = [
        "| run | seeds | reached | FLOPs, of scratch's | speed-up | processor time, of scratch's "
        "| wall time, of scratch's | final loss over scratch's | jump at growth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS.values():
        if row.wsd or row.name == "scratch":
            continue
        runs = outcomes(store, row)
        if not runs:
            lines.append(f"| {row.title} | 0 | not run | | | | | | |")
            continue
        reached = [o for o in runs if o.share is not None]
        cells = [
            row.title, str(len(runs)), f"{len(reached)} of {len(runs)}",
            spread([o.share for o in reached], "{:.3f}"),
            spread([100 * o.speed_up for o in reached], "{:+.1f}%") or "never",
            spread([o.seconds for o in reached], "{:.2f}"),
            spread([o.wall for o in reached], "{:.2f}"),
            spread([o.gap for o in runs], "{:+.3f}"),
            spread([o.jump for o in runs], "{:+.3f}"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def decaying(store: Any) -> list[str]:
    lines = [
        "| run, WSD | seeds | FLOPs, of scratch's | saved | reached | processor time, of scratch's "
        "| final loss over scratch's | in percent |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS.values():
        if not row.wsd or row.name == row.against:
            continue
        runs = outcomes(store, row)
        if not runs:
            lines.append(f"| {row.title} | 0 | not run | | | | | |")
            continue
        scratch, own = stored(store, ROWS[row.against]), stored(store, row)
        both = [s for s in own if s in scratch]
        times = [own[s]["processor_seconds"] / scratch[s]["processor_seconds"] for s in both]
        worse = [o.gap / final(scratch[s]) for o, s in zip(runs, both, strict=True)]
        cells = [
            row.title, str(len(runs)), f"{statistics.fmean(o.spent for o in runs):.3f}",
            f"{100 * (1 - statistics.fmean(o.spent for o in runs)):.0f}%",
            f"{sum(o.share is not None for o in runs)} of {len(runs)}",
            spread(times, "{:.2f}"), spread([o.gap for o in runs], "{:+.3f}"),
            spread([100 * w for w in worse], "{:+.1f}%"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def listing(store: Any) -> str:
    """Every row, and the seeds that are stored at the tuned rate."""
    size, rate = SIZES[store.size], store.rate()
    lines = [f"{store.size}: {size.steps} steps, rate {rate or 'not tuned yet'}"]
    for row in ROWS.values():
        seeds = ", ".join(map(str, stored(store, row))) or "none"
        lines.append(f"{row.name:16} seeds {seeds:12} {row.title}")
    return "\n".join(lines)
