"""Statistics of errors by output and setting, gathered while samples stream by.

Nothing of an output is kept. Errors are counted in bins of the leading bits of their float64 numbers
(64 bins to a power of two, at most 131,072 in all), from which quantiles are read: they are the upper
ends of bins, at most 1/64 too large. Norms are summed with their scale, so that squares do not overflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, inf, log10

import numpy as np

from meristem.rewrite.graph import Array

QUANTILES = ("0.5", "0.9", "0.99", "0.999")
# Elements that are widened to float64 at a time.
CHUNK = 1 << 20
# Bits of a float64 that number its bin: all but the lower 46 of its 52 of mantissa.
_DROPPED = 46


@dataclass(frozen=True)
class OutputStatistics:
    """Errors of one output of the grown model in one setting, in absolute numbers.

    ``own`` is the largest error of the original there, ``relative`` the grown model's largest as a
    multiple of it (or of the rounding that is granted, where that is more): up to 4 passes. ``sqnr`` is
    20 log10(|y| / |y - y'|) in dB over all samples, with Euclidean norms; infinite where nothing differs.
    ``agreement`` is the share of places where the largest entry along the last axis is the same one, where
    that axis counts classes. ``histogram`` are (power of ten of the error, count); None: exactly zero.
    """

    output: str
    setting: str
    count: int
    max: float
    mean: float
    quantiles: dict[str, float]
    own: float
    relative: float
    sqnr: float
    own_sqnr: float
    agreement: float | None
    histogram: list[tuple[int | None, int]]


def decibels(x: float) -> str:
    """A ratio as a person reads it; equal outputs have none."""
    return "equal" if x == inf else f"{x:.1f} dB"


# How many rows a person is shown; data have all of them.
ROWS = 6
_HEAD = ("output", "max error", "x own", "mean", "median", "99%", "SQNR", "own SQNR", "top-1")


def worst_rows(rows: Iterable[OutputStatistics], most: int = ROWS) -> list[tuple[str, ...]]:
    """The rows that come nearest to their limit, as words: output, largest error, that as a multiple of
    the original's, mean, median, 99% quantile, SQNR, the original's, top-1 agreement."""
    return [_cells(r) for r in sorted(rows, key=lambda r: -r.relative)[:most]]


def table(rows: Sequence[OutputStatistics]) -> list[str]:
    """The same as lines of text under a head; nothing without rows."""
    if not rows:
        return []
    cells = [_HEAD, *worst_rows(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        right = (c.rjust(w) for c, w in zip(numbers, widths[1:], strict=True))
        lines.append("  ".join((name.ljust(widths[0]), *right)).rstrip())
    return lines + ([f"and {len(rows) - ROWS} more"] if len(rows) > ROWS else [])


def _cells(r: OutputStatistics) -> tuple[str, ...]:
    return (
        f"{r.output} ({r.setting})", f"{r.max:.1e}", f"{r.relative:.2f}", f"{r.mean:.1e}",
        f"{r.quantiles['0.5']:.1e}", f"{r.quantiles['0.99']:.1e}", decibels(r.sqnr),
        decibels(r.own_sqnr), "" if r.agreement is None else f"{r.agreement:.1%}",
    )  # fmt: skip


def distances(expected: Array, got: Array) -> Array:
    """Absolute differences; infinite where one is not a number and the other is."""
    a, b = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    with np.errstate(invalid="ignore"):
        d = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(d), np.inf, d)


def largest(a: Array) -> float:
    """The largest magnitude of a finite entry."""
    sizes = np.abs(np.asarray(a, np.float64))
    return float(sizes[np.isfinite(sizes)].max(initial=0.0))


@dataclass
class _Norm:
    """A Euclidean norm of numbers that stream by."""

    value: float = 0.0

    def add(self, x: Array) -> None:
        top = float(x.max(initial=0.0))
        if top == inf:
            self.value = inf
        elif top:
            self.value = float(np.hypot(self.value, top * np.sqrt(np.sum((x / top) ** 2))))


def _ratio(signal: float, noise: float) -> float:
    if noise == 0.0:
        return inf
    return -inf if noise == inf or signal == 0.0 else 20 * (log10(signal) - log10(noise))


@dataclass
class Gathered:
    """Errors of one output in one setting so far. ``classes``: does its last axis count classes?"""

    classes: bool = False
    count: int = 0
    worst: float = 0.0
    own: float = 0.0
    scale: float = 0.0
    total: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    signal: _Norm = field(default_factory=_Norm)
    noise: _Norm = field(default_factory=_Norm)
    own_noise: _Norm = field(default_factory=_Norm)
    places: int = 0
    agreed: int = 0

    def add(self, expected: Array, own: Array, wanted: Array, got: Array, scale: float) -> None:
        """One sample: the reference's output, the original's, what the grown one should give (mostly
        the reference's) and what it gives; all of one shape. ``scale`` is its largest finite entry."""
        self.scale = max(self.scale, scale)
        for e, o, w, g in _chunks(expected, own, wanted, got):
            error, mine = distances(w, g), distances(e, o)
            self.count += error.size
            self.worst = max(self.worst, float(error.max(initial=0.0)))
            self.own = max(self.own, float(mine.max(initial=0.0)))
            self.total += float(error.sum())
            numbers, counts = np.unique(error.view(np.int64) >> _DROPPED, return_counts=True)
            self.bins.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
            sizes = np.abs(np.asarray(w, np.float64))
            self.signal.add(sizes[np.isfinite(sizes)])
            self.noise.add(error)
            self.own_noise.add(mine)
        if self.classes and wanted.ndim and wanted.shape[-1]:
            same = np.argmax(wanted, -1) == np.argmax(got, -1)
            self.places += same.size
            self.agreed += int(same.sum())

    def finish(self, output: str, setting: str, floor_: float) -> OutputStatistics:
        """The statistics; ``floor_`` is the error that rounding is granted."""
        base = max(self.own, floor_)
        relative = self.worst / base if base else (inf if self.worst else 0.0)
        return OutputStatistics(
            output, setting, self.count, self.worst, self.total / max(self.count, 1), self._quantiles(),
            self.own, relative, _ratio(self.signal.value, self.noise.value),
            _ratio(self.signal.value, self.own_noise.value),
            self.agreed / self.places if self.places else None, self._histogram(),
        )  # fmt: skip

    def _quantiles(self) -> dict[str, float]:
        """By rank: the smallest bin that has so many errors in it and below."""
        numbers = sorted(self.bins)
        below = np.cumsum([self.bins[n] for n in numbers])
        out = {}
        for q in QUANTILES:
            rank = max(1, ceil(float(q) * self.count))
            at = int(np.searchsorted(below, rank))
            out[q] = min(_upper(numbers[at]), self.worst) if numbers else 0.0
        return out

    def _histogram(self) -> list[tuple[int | None, int]]:
        powers: Counter[int] = Counter()
        for number, count in self.bins.items():
            low = _lower(number)
            if 0.0 < low < inf:
                powers[floor(log10(low))] += count
            elif low == inf:
                powers[_HUGE] += count
        zeros = [(None, self.bins[0])] if self.bins[0] else []
        return [*zeros, *sorted(powers.items())]


# The power of ten under which infinite errors are counted: one more than float64 has.
_HUGE = 309


def _lower(number: int) -> float:
    return float(np.int64(number << _DROPPED).view(np.float64))


def _upper(number: int) -> float:
    """The end of a bin; zero has one of its own, for what is smaller than the next is none."""
    return 0.0 if number == 0 else _lower(number + 1)


def _chunks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    rows = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    for at in range(0, rows[0].size, CHUNK):
        yield tuple(r[at : at + CHUNK] for r in rows)


__all__ = [
    "QUANTILES",
    "Gathered",
    "OutputStatistics",
    "decibels",
    "distances",
    "largest",
    "table",
    "worst_rows",
]
