"""Charts as numbers: bars of an error histogram, and how values on the way agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10
from sys import float_info
from typing import Any

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


def ordered(histogram: Sequence[tuple[int | None, int]]) -> list[tuple[str, int, str]]:
    """(label, count, what is counted in words) of (power of ten, count), exactly zero first."""
    found = sorted(histogram, key=lambda pair: -400 if pair[0] is None else pair[0])
    return [(_label(power), count, _words(power)) for power, count in found]


def _label(power: int | None) -> str:
    """A power that float64 does not have counts what is infinite or no number."""
    if power is None:
        return "0"
    return f"1e{power}" if power <= float_info.max_10_exp else "inf"


def _words(power: int | None) -> str:
    if power is None:
        return "exactly equal"
    label = _label(power)
    return "infinite or no number" if label == "inf" else f"of about {label}"


def bars(histogram: Sequence[tuple[int | None, int]]) -> list[Bar]:
    """Bars of (power of ten, count); heights grow with the logarithm of the count, so that a single far
    entry is seen beside a million near ones."""
    found = ordered(histogram)
    if not found:
        return []
    top = max(log10(1 + count) for _, count, _ in found) or 1.0
    step = WIDTH / len(found)
    width = min(step * 0.86, 48)
    out = []
    for i, (label, count, words) in enumerate(found):
        h = HEIGHT * log10(1 + count) / top
        x = step * i + (step - width) / 2
        out.append(Bar(x, HEIGHT - h, width, h, label, f"{count:,} {words}"))
    return out


def points(layers: Sequence[Any]) -> list[Point]:
    """log10 of each value's error against its scale, from 1e-18 at the bottom to 1 at the top."""
    step = WIDTH / max(len(layers) - 1, 1)
    out = []
    for i, v in enumerate(layers):
        relative = relative_error(v)
        level = log10(relative) if relative > 0 and isfinite(relative) else _FLOOR
        level = 0.0 if not isfinite(relative) else min(max(level, _FLOOR), 0.0)
        words = f"{v.value} ({v.op}{' in ' + v.place if v.place else ''}): {relative:.1e}"
        out.append(Point(step * i, HEIGHT * level / _FLOOR, v.located, words))
    return out


def relative_error(v: Any) -> float:
    """The largest error as a part of the largest magnitude."""
    return float(v.error / v.scale) if v.scale else float(v.error)


def path(found: Sequence[Point]) -> str:
    """The points as one SVG path."""
    return " ".join(f"{'L' if i else 'M'}{p.x:.1f} {p.y:.1f}" for i, p in enumerate(found))


__all__ = ["HEIGHT", "WIDTH", "Bar", "Point", "bars", "ordered", "path", "points", "relative_error"]
