"""What verification needs of memory, and what there is: it says so before the machine runs out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import prod
from pathlib import Path

from meristem.rewrite.graph import Graph

_GROUPS = (  # limit and use of the control group, second and first generation
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
WIDE = 8  # bytes of a float64
GIGABYTE = 1e9


def available() -> float:
    """Bytes that can still be used: of the machine, or of the control group where that has less.

    Infinite where the system does not say.
    """
    found = [_of_machine(), *(_of_group(*paths) for paths in _GROUPS)]
    return min(n for n in found if n is not None) if any(n is not None for n in found) else _NONE


_NONE = float("inf")


def _of_machine() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        names = getattr(os, "sysconf_names", {})
        if "SC_AVPHYS_PAGES" not in names:
            return None
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    words = sizes.get("MemAvailable", sizes["MemFree"]).split()
    return float(words[0]) * 1024


def _of_group(limit: str, used: str) -> float | None:
    try:
        most = Path(limit).read_text(encoding="ascii").strip()
        now = Path(used).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return max(0.0, float(most) - float(now)) if most.isdecimal() else None


def numbers(graph: Graph) -> int:
    """How many numbers the weights of a view hold."""
    return sum(prod(w.shape) for w in (*graph.weights, *graph.unused))


def stored(graph: Graph, sizes: dict[str, int]) -> float:
    """Bytes of the weights in their own types; ``sizes`` are those of a number by type."""
    return float(sum(prod(w.shape) * sizes.get(w.dtype, 4) for w in graph.weights))


def lacking(needed: float, what: str, instead: str) -> str:
    """What is wrong where ``needed`` bytes are more than there are; empty where they fit."""
    there = available()
    if needed <= there:
        return ""
    return (
        f"{what} needs about {needed / GIGABYTE:.3g} GB of memory, and {there / GIGABYTE:.3g} GB are "
        f"free here; {instead}"
    )


def total(parts: Iterable[float]) -> float:
    """Their sum with a tenth more, for what is made on the way."""
    return 1.1 * sum(parts)


__all__ = ["WIDE", "available", "lacking", "numbers", "stored", "total"]
