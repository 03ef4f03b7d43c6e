"""Charts as numbers: bars of an error histogram, and how values on the way agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

# A chart's inner size; labels stand outside of it.
WIDTH, HEIGHT = 520, 120
# Relative errors below the rounding of float64 are drawn there.
_FLOOR = -18.0


@dataclass(frozen=True)
class Bar:
    """One bar from the bottom up, with its label and what it counts in words."""

    x: float
    y: float
    w: float
    h: float
    label: str
    words: str


@dataclass(frozen=True)
class Point:
    """One value on the way; ``words`` say which and how far."""

    x: float
    y: float
    located: bool
    words: str


def bars(histogram: Sequence[tuple[int | None, int]]) -> list[Bar]:
    """Bars of (power of ten, count), exactly zero first; heights grow with the logarithm of the count, so
    that a single far entry is seen beside a million near ones."""
    found = sorted(histogram, key=lambda pair: -400 if pair[0] is None else pair[0])
    if not found:
        return []
    top = max(log10(1 + count) for _, count in found) or 1.0
    step = WIDTH / len(found)
    width = min(step * 0.86, 48)
    out = []
    for i, (power, count) in enumerate(found):
        h = HEIGHT * log10(1 + count) / top
        label = "0" if power is None else f"1e{power}"
        words = f"{count:,} exactly equal" if power is None else f"{count:,} of about {label}"
        out.append(Bar(step * i + (step - width) / 2, HEIGHT - h, width, h, label, words))
    return out


def points(layers: Sequence[object]) -> list[Point]:
    """log10 of each value's error against its scale, from 1e-18 at the bottom to 1 at the top."""
    step = WIDTH / max(len(layers) - 1, 1)
    out = []
    for i, v in enumerate(layers):
        relative = relative_error(v)
        level = log10(relative) if relative > 0 and isfinite(relative) else _FLOOR
        level = 0.0 if not isfinite(relative) else min(max(level, _FLOOR), 0.0)
        words = f"{v.value} ({v.op}{' in ' + v.place if v.place else ''}): {relative:.1e}"  # type: ignore[attr-defined]
        out.append(
            Point(step * i, HEIGHT * level / _FLOOR, bool(getattr(v, "located", False)), words)
        )
    return out


def relative_error(v: object) -> float:
    """The largest error as a part of the largest magnitude."""
    error, scale = float(v.error), float(v.scale)  # type: ignore[attr-defined]
    return error / scale if scale else error


def path(found: Sequence[Point]) -> str:
    """The points as one SVG path."""
    return " ".join(f"{'L' if i else 'M'}{p.x:.1f} {p.y:.1f}" for i, p in enumerate(found))


__all__ = ["HEIGHT", "WIDTH", "Bar", "Point", "bars", "path", "points", "relative_error"]
