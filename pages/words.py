"""What strategies, methods and fills are, in words that need no manual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

STRATEGIES = {
    "zero": "of every product over new coordinates a factor is zero, so each old sum is what it was",
    "mean": "new coordinates are the mean of the old, which leaves the mean in a norm where it was",
    "statistics": "norms take mean and variance over the old coordinates alone, by added operators",
    "copy": "every coordinate is repeated, and what sums the copies is shared evenly among them",
    "circular": "new coordinates repeat the old in turn, and what sums them is shared entry by entry",
    "replicas": "new coordinates repeat old ones drawn at random, and what sums them is shared among all",
    "pair": "new coordinates come in equal pairs, which what sums them reads with opposite signs",
    "incoming": "new units are zero, and what sums them starts where their gradient is largest",
    "upcycle": "every expert is the MLP that was there, and what a token weighs them by sums to one",
    "resized": "larger images in the same patches, whose positions are resized: another function",
    "rms": "new units are drawn like the old, and sums are scaled by sqrt(n / n'), another function",
}
DEPTH = {
    "identity": "the last factor of a new block is zero, so it adds nothing to its stream until it learns",
    "cancel": "a new block holds two halves that cancel, so it adds nothing to its stream until they part",
    "net2deeper": "a new layer is the identity behind an activation that changes nothing when repeated",
    "stack": "blocks are copied in order, which is another function: its error is measured",
    "learned": "blocks are copied and combined as was learned on batches, which is another function",
    "split": "the copies of a block share what it did, which is nearly the same function",
}
FILLS = {
    "zero": "zero",
    "free": "drawn like their neighbours",
    "positive": "positive, drawn like their neighbours",
    "given": "as given",
    "mean": "the mean of the old",
    "copy": "copies of the old",
    "same": "as stored",
}
VERDICTS = {
    "bit-exact": "not a single bit differs",
    "noise-floor": "differences are within what rounding explains",
    "differs": "more differs than rounding explains",
    "approximate": "another function, as the plan says; the error is measured",
    "not checked": "not measured, which is never counted as passed",
}
SIGNS = {
    "bit-exact": "✓",
    "noise-floor": "✓",
    "differs": "✗",
    "approximate": "≈",
    "not checked": "–",
}
LEVELS = {
    "algebra": "both programs in float64: at most 1e-10 of the largest entry may differ",
    "deployment": "the real file and its own numbers, in the runtime: at most 4 times the error that the "
    "original itself has",
    "decoding": "step by step with the cache that each model left: as the original does, and as the whole "
    "sequence gives it, in float64 and in the runtime",
    "training": "gradients in float64: everything new learns, and nothing old learns otherwise",
}


def how(kind: str, strategies: Iterable[str], depth: str) -> str:
    """Why a growth changes nothing, in a sentence; ``depth`` is the method for new blocks."""
    if kind == "layers":
        return DEPTH[depth]
    return "; ".join(STRATEGIES.get(s, s) for s in strategies)


def pattern(text: str) -> str:
    """A path with the numbers of repeated blocks as stars, as a selector would name them all."""
    return ".".join("*" if part.isdigit() else part for part in text.split("."))


def places(found: Sequence[str]) -> str:
    """Places that differ in the numbers of blocks alone, as one."""
    return found[0] if len(found) == 1 else f"{pattern(found[0])} ({len(found)} places)"


def merged(rows: Iterable[str]) -> list[tuple[str, int]]:
    """Lines that differ in the numbers of blocks alone, once, with how many they are."""
    count = Counter(" ".join(pattern(word) for word in row.split(" ")) for row in rows)
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(" ".join(pattern(word) for word in row.split(" ")), row)
    return [(first[key] if n == 1 else key, n) for key, n in count.items()]


def shape(sizes: Iterable[int]) -> str:
    """3 × 4, or "scalar"."""
    return " × ".join(map(str, sizes)) or "scalar"


__all__ = [
    "DEPTH", "FILLS", "LEVELS", "SIGNS", "STRATEGIES", "VERDICTS", "how", "merged", "pattern", "places",
    "shape",
]  # fmt: skip
