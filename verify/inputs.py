"""Inputs to compare on: random and structured, at several sizes, the same for the same seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meristem.carriers.onnx_values import size_of
from meristem.rewrite.errors import SelectorError, SizeError
from meristem.rewrite.graph import Array
from meristem.verify.signature import Field, symbols

# Two coprime sizes for every dynamic axis, first and second choice; further axes take further pairs.
_PAIRS = ((5, 3), (11, 13), (7, 5), (17, 19), (13, 11), (23, 29), (19, 17), (31, 37))
STYLES = ("zeros", "constant", "large", "one-hot")
"""Structured inputs; a large one is a hundred times the random one."""

AXES: dict[str, Callable[[int, int], bool]] = {
    "batch": lambda axis, rank: axis == 0,
    "sequence": lambda axis, rank: axis == 1 and rank < 4,
    "height": lambda axis, rank: axis == 2 and rank == 4,
    "width": lambda axis, rank: axis == 3 and rank == 4,
}
"""What axes are commonly called, by (axis, number of axes)."""


@dataclass
class Sample:
    """Values of all inputs by name, exact in the inputs' own types (bfloat16 as float32)."""

    label: str
    arrays: dict[str, Array]
    sizes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.label


def draw(found: Sequence[Field], sizes: Mapping[str, int], style: str, seed: int = 0) -> Sample:
    """One sample: ``random`` or one of STYLES, at ``sizes`` of the base symbols."""
    arrays = {}
    for f in found:
        shape = tuple(n if isinstance(n, int) else size_of(n, sizes) for n in f.shape)
        if any(n is None or n < 0 for n in shape):
            raise ValueError(f"the size {f.shape} of {f.name} has no value at {dict(sizes)}")
        key = hashlib.sha256(f"{seed}|{f.name}|{style}|{shape}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(key[:16], np.uint64))
        arrays[f.name] = _fill(f, shape, style, rng)  # type: ignore[arg-type]
    at = " and ".join("x".join(map(str, a.shape)) for a in arrays.values())
    label = f"{style} {seed}" if seed else style
    return Sample(f"{label} at {at}", arrays, dict(sizes))


def _fill(f: Field, shape: tuple[int, ...], style: str, rng: np.random.Generator) -> Array:
    if f.use == "float":
        data = rng.standard_normal(shape)
        if style in ("zeros", "constant"):
            data = np.full(shape, 0.0 if style == "zeros" else 1.0)
        elif style == "one-hot":
            data = np.zeros(shape)
            data[(slice(None), *(rng.integers(n) for n in shape[1:]))[: len(shape)]] = 1.0
        elif style == "large":
            data = data * 100
        return rounded(data, f.dtype)
    dtype = np.dtype(f.dtype)
    if f.use == "mask":
        data = rng.random(shape) < 0.7 if style in ("random", "large") else np.ones(shape)
        if style == "one-hot":
            data = np.zeros(shape)
        data = np.array(data, np.float64)
        if data.ndim:
            data[..., :1] = 1
        return data.astype(dtype)
    if style in ("zeros", "constant"):
        return np.full(shape, f.low if style == "zeros" else f.high, dtype)
    if style == "one-hot":
        data = np.full(shape, f.low)
        if data.ndim and data.shape[-1]:
            data[..., rng.integers(data.shape[-1])] = f.high
        return data.astype(dtype)
    return rng.integers(f.low, f.high + 1, shape).astype(dtype)


def rounded(data: Array, dtype: str) -> Array:
    """Numbers that ``dtype`` holds exactly; bfloat16 as the float32 numbers that it is a part of."""
    if dtype != "bfloat16":
        return np.asarray(data, np.dtype(dtype))
    wide = np.ascontiguousarray(data, np.float32)
    return (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


# -- sizes ------------------------------------------------------------------------------------------


@dataclass
class Sizes:
    """The sizes at which a program runs, and what had to be given up to find them."""

    chosen: list[dict[str, int]]
    notes: list[str] = field(default_factory=list)


def choose_sizes(
    found: list[Field],
    ranges: Mapping[str, tuple[int, int]],
    runs: Callable[[Sample], str],
    fixed: Mapping[str, int] | None = None,
) -> Sizes:
    """Two coprime sizes of every dynamic axis at which the program runs.

    ``ranges`` are the bounds of symbols. ``runs`` tries a sample and gives what is wrong with it, or
    nothing. Where other sizes fail, axes are varied together, then the batch alone, then the traced
    sizes remain; ``notes`` say so. ``fixed`` are sizes that are not chosen.
    """
    now = traced_sizes(found)
    if not now:
        return Sizes([{}], ["static shapes: the program takes one size"])
    out = Sizes([])
    why = ""
    for which in (0, 1):
        for kind, sizes in _ladder(found, now, ranges, which):
            sizes |= fixed or {}
            try:
                problem = runs(draw(found, sizes, "random"))
            except ValueError as error:
                problem = str(error)
            if not problem:
                if sizes not in out.chosen:
                    out.chosen.append(sizes)
                if kind:
                    out.notes.append(f"{kind} ({_brief(why)})")
                break
            why = why or problem
    if not out.chosen:
        out.notes.append(f"no valid input was found ({_brief(why)})")
    out.notes = list(dict.fromkeys(out.notes))
    return out


def _brief(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return line if len(line) <= 160 else line[:157] + "..."


def traced_sizes(found: list[Field]) -> dict[str, int]:
    """Today's size of every base symbol that is an axis by itself."""
    out = {}
    for name, places in symbols(found).items():
        for f, axis in places:
            if f.shape[axis] == name:
                out[name] = f.traced[axis]
    return out


def fixed_sizes(
    found: Sequence[Field], ranges: Mapping[str, tuple[int, int]], wanted: Mapping[str, int]
) -> dict[str, int]:
    """Sizes by symbol from sizes by what a caller calls an axis: its symbol, ``input:axis``, or one of
    AXES.

    Raises SelectorError where nothing is called so, SizeError where the size is not one it can have.
    """
    called: dict[str, set[str]] = {}
    for f in found:
        for axis, symbol in enumerate(f.shape):
            if isinstance(symbol, str) and symbol in traced_sizes(list(found)):
                common = (n for n, rule in AXES.items() if rule(axis, len(f.shape)))
                for name in (symbol, f"{f.name}:{axis}", *common):
                    called.setdefault(name, set()).add(symbol)
    out = {}
    for name, size in wanted.items():
        if name not in called:
            raise SelectorError(
                f"size {name}={size}: no dynamic axis is called so; "
                + (f"there are {', '.join(called)}" if called else "all axes are static: trace or "
                "export the model with dynamic ones"),
                selector=name,
            )  # fmt: skip
        for symbol in sorted(called[name]):
            low, high = ranges.get(symbol, (1, 1 << 30))
            if not low <= size <= high:
                raise SizeError(
                    f"size {name}={size}: the model takes {low} to {high} there", size=size
                )
            out[symbol] = size
    return out


def _ladder(
    found: list[Field],
    now: Mapping[str, int],
    ranges: Mapping[str, tuple[int, int]],
    which: int,
) -> Iterator[tuple[str, dict[str, int]]]:
    """Sizes to try, the most telling first, with what has been given up."""
    places = symbols(found)
    first = {s for s in now if any(axis == 0 for _, axis in places[s])}
    image = {
        s
        for s in now
        if any(f.use == "float" and len(f.shape) >= 4 and a >= 2 for f, a in places[s])
    }

    def pick(groups: Mapping[str, Any], keep: set[str], scaled: bool) -> dict[str, int]:
        order = list(dict.fromkeys(groups.values()))
        sizes = {}
        for s, n in now.items():
            pair = _PAIRS[order.index(groups[s]) % len(_PAIRS)]
            size = pair[which]
            if s in image:
                size = n + (n // 2 if which == 0 else n) if scaled else n + 1 + 2 * which
            low, high = ranges.get(s, (1, 1 << 30))
            sizes[s] = n if s in keep else min(max(size, low), high)
        return sizes

    alone = {s: "batch" if s in first else s for s in now}
    together = {s: "batch" if s in first else now[s] for s in now}
    yield "", pick(alone, set(), False)
    yield "axes of one size vary together", pick(together, set(), False)
    if image:
        yield "image sizes grow by whole parts", pick(together, set(), True)
    yield "only the first axes vary", pick(together, set(now) - first, False)
    yield "only the traced sizes are valid", dict(now)


__all__ = [
    "AXES",
    "STYLES",
    "Sample",
    "Sizes",
    "choose_sizes",
    "draw",
    "fixed_sizes",
    "rounded",
    "traced_sizes",
]
