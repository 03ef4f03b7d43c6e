"""Einstein's sums as contractions of two operands after another, for both carriers."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Value


def einsum(b: Builder, equation: str, values: Sequence[Value]) -> Value | None:
    """Lower ``equation`` (numpy's notation, an ellipsis stands for leading labels).

    None where a term repeats a label, which reads a diagonal.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    terms = [_labels(t, len(v.shape)) for t, v in zip(written, values, strict=True)]
    if any(len(set(t)) != len(t) for t in terms):
        return None
    dots = [len(v.shape) - len(t.replace("...", "")) for t, v in zip(written, values, strict=True)]
    out = _labels(right, len(right.replace("...", "")) + (max(dots) if "..." in right else 0))
    if not arrow:
        every = [k for t in terms for k in t]
        out = [k for k in sorted(set(every)) if k < 0 or every.count(k) == 1]
    value, labels = values[0], terms[0]
    for i in range(1, len(values)):
        later = {k for t in terms[i + 1 :] for k in t} | set(out)
        kept = [k for k in dict.fromkeys((*labels, *terms[i])) if k in later]
        value, labels = _product(b, (value, labels), (values[i], terms[i]), kept), kept
    gone = tuple(i for i, k in enumerate(labels) if k not in out)
    if gone:
        value = b.apply("sum", value, axes=gone, keep=False, mean=False)
        labels = [k for k in labels if k in out]
    return b.permute(value, [labels.index(k) for k in out])


def _labels(term: str, rank: int) -> list[int]:
    """Letters by code point; the axes of an ellipsis are negative and end at -1."""
    head, dots, tail = term.partition("...")
    count = rank - len(head) - len(tail) if dots else 0
    return [*map(ord, head), *range(-count, 0), *map(ord, tail)]


def _product(
    b: Builder, x: tuple[Value, list[int]], y: tuple[Value, list[int]], out: Sequence[int]
) -> Value:
    """Axes of one that broadcast against a longer one get a label of their own."""
    names = [list(x[1]), list(y[1])]
    sizes = [dict(zip(t, v.shape, strict=True)) for v, t in (x, y)]
    for side in (0, 1):
        for i, k in enumerate(names[side]):
            other = sizes[1 - side].get(k)
            if other is not None and other != sizes[side][k] == 1:
                names[side][i] = 10_000 + side * 1_000 + i
    shift = {k: i for i, k in enumerate(dict.fromkeys((*names[0], *names[1], *out)))}
    la, lb, lo = ([shift[k] for k in part] for part in (*names, out))
    return b.contract(x[0], y[0], la, lb, lo)
