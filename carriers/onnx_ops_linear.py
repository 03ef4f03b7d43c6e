"""ONNX contractions: matrix products, einsum, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meristem.carriers.onnx_ops import Call, Declined, onnx
from meristem.rewrite.graph import Value


@onnx("MatMul")
def matmul(c: Call) -> Value:
    return c.b.matmul(c.x(0), c.x(1))


@onnx("FusedMatMul", domain="com.microsoft")
def fused_matmul(c: Call) -> Value:
    a, b = c.x(0), c.x(1)
    if c.attr("transBatchA", 0) or c.attr("transBatchB", 0):
        raise Declined("transposes batches")
    a, b = (_turned(c, v, c.attr(n, 0)) for v, n in ((a, "transA"), (b, "transB")))
    return _times(c, c.b.matmul(a, b), "alpha")


def _turned(c: Call, x: Value, turn: int) -> Value:
    n = len(x.shape)
    return c.b.permute(x, [*range(n - 2), n - 1, n - 2]) if turn else x


def _times(c: Call, x: Value, name: str) -> Value:
    """A factor that is an attribute, left out where it is one."""
    factor = float(c.attr(name, 1.0))
    if factor == 1.0:
        return x
    return c.b.apply("mul", x, c.b.literal(factor, x.dtype, ("attr", name)))


@onnx("Gemm")
def gemm(c: Call) -> Value:
    """alpha * A' B' + beta * C."""
    a, b = _turned(c, c.x(0), c.attr("transA", 0)), _turned(c, c.x(1), c.attr("transB", 0))
    y = _times(c, c.b.matmul(a, b), "alpha")
    return c.b.apply("add", y, _times(c, c.x(2), "beta")) if c.has(2) else y


@onnx("Einsum")
def einsum(c: Call) -> Value:
    """Pairwise contractions over integer labels; an ellipsis stands for leading labels."""
    values = [c.x(i) for i in range(len(c))]
    text = c.attr("equation")
    text = (text.decode() if isinstance(text, bytes) else text).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = [_labels(t, len(v.shape)) for t, v in zip(left.split(","), values, strict=True)]
    rank = max(
        (
            len(v.shape) - len(t.replace("...", ""))
            for t, v in zip(left.split(","), values, strict=True)
        ),
        default=0,
    )
    out = _labels(right, len(right.replace("...", "")) + (rank if "..." in right else 0))
    if not arrow:
        every = [k for t in terms for k in t]
        out = [k for k in sorted(set(every)) if k < 0 or every.count(k) == 1]
    labelled = [_diagonal(c, v, t) for v, t in zip(values, terms, strict=True)]
    value, labels = labelled[0]
    for i, (other, more) in enumerate(labelled[1:], 1):
        later = {k for _, t in labelled[i + 1 :] for k in t} | set(out)
        kept = [k for k in dict.fromkeys((*labels, *more)) if k in later]
        value, labels = _product(c, (value, labels), (other, more), kept), kept
    gone = [i for i, k in enumerate(labels) if k not in out]
    if gone:
        value = c.b.apply("sum", value, axes=tuple(gone), keep=False, mean=False)
        labels = [k for k in labels if k in out]
    return c.b.permute(value, [labels.index(k) for k in out])


def _labels(term: str, rank: int) -> list[int]:
    """Letters by code point; the axes of an ellipsis are negative and end at -1."""
    head, dots, tail = term.partition("...")
    count = rank - len(head) - len(tail) if dots else 0
    return [*map(ord, head), *range(-count, 0), *map(ord, tail)]


def _diagonal(c: Call, v: Value, labels: list[int]) -> tuple[Value, list[int]]:
    if len(set(labels)) != len(labels):
        raise Declined("reads a diagonal")
    return v, labels


def _product(
    c: Call, a: tuple[Value, list[int]], b: tuple[Value, list[int]], out: Sequence[int]
) -> Value:
    """Axes of one that broadcast against a longer one get a label of their own."""
    names = [list(a[1]), list(b[1])]
    sizes = [dict(zip(t, v.shape, strict=True)) for v, t in (a, b)]
    for side in (0, 1):
        for i, k in enumerate(names[side]):
            other = sizes[1 - side].get(k)
            if other is not None and other != sizes[side][k] == 1:
                names[side][i] = 10_000 + side * 1_000 + i
    shift = {k: i for i, k in enumerate(dict.fromkeys((*names[0], *names[1], *out)))}
    return c.b.contract(
        a[0],
        b[0],
        [shift[k] for k in names[0]],
        [shift[k] for k in names[1]],
        [shift[k] for k in out],
    )


@onnx("Conv")
def conv(c: Call) -> Value:
    x, w = c.x(0), c.x(1)
    rank = len(x.shape) - 2
    return c.b.convolution(
        x,
        w,
        c.maybe(2),
        stride=c.attr("strides") or [1] * rank,
        pads=window_pads(c, x.shape[2:], w.shape[2:]),
        dilation=c.attr("dilations") or [1] * rank,
        groups=int(c.attr("group", 1)),
        groups_role=("attr", "group"),
    )


def window_pads(c: Call, sizes: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) for every spatial axis, ``auto_pad`` resolved."""
    rank = len(kernel)
    auto = c.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        out = []
        strides, dilations = c.attr("strides") or [1] * rank, c.attr("dilations") or [1] * rank
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            need = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            small, large = need // 2, need - need // 2
            out.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return out
    raw: Any = c.attr("pads") or [0] * (2 * rank)
    return [(int(raw[i]), int(raw[i + rank])) for i in range(rank)]
