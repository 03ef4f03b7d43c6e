"""Ratios of two programs' times, in pairs one after the other, so that both meet the same machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# One measurement lasts at least so long, so that the clock's steps do not matter.
SECONDS = 0.03


@dataclass(frozen=True)
class Ratio:
    """``median`` of first / second over pairs, with the ``quarters`` beside it; ``seconds`` of one call of
    each. A sample's sign test gives the ``interval`` of the median (95 %)."""

    median: float
    quarters: tuple[float, float]
    interval: tuple[float, float]
    seconds: tuple[float, float]
    pairs: int


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    pairs: int,
    clock: Callable[[], float] = time.thread_time,
) -> Ratio:
    """Time both ``pairs`` times in turn, each first in half of them.

    The clock is this thread's processor time: both programs run in one thread, and other work on the
    machine then disturbs only by what it takes from caches.
    """
    for f in (first, second):
        f()
        f()
    calls = max(1, round(SECONDS / max(_once(second, 1, clock), 1e-6)))
    times = []
    for i in range(pairs):
        a, b = (first, second) if i % 2 == 0 else (second, first)
        x, y = _once(a, calls, clock), _once(b, calls, clock)
        times.append((x, y) if i % 2 == 0 else (y, x))
    ratios = sorted(x / y for x, y in times)
    low, _, high = statistics.quantiles(ratios, n=4)
    return Ratio(
        statistics.median(ratios), (low, high), _interval(ratios),
        (statistics.median(x for x, _ in times), statistics.median(y for _, y in times)), pairs,
    )  # fmt: skip


def _once(f: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        f()
    return (clock() - start) / calls


def _interval(ordered: list[float]) -> tuple[float, float]:
    """Order statistics between which the median lies in 95 % of samples."""
    n = len(ordered)
    tail = 0.0
    for k in range(n):
        tail += math.comb(n, k) * 0.5**n
        if tail > 0.025:
            return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]
    return ordered[0], ordered[-1]


__all__ = ["Ratio", "paired"]
