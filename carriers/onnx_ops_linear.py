"""ONNX contractions: matrix products, einsum, convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meristem.carriers.einsum import einsum as spelled_out
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
    text = c.attr("equation")
    text = text.decode() if isinstance(text, bytes) else text
    y = spelled_out(c.b, text, [c.x(i) for i in range(len(c))])
    if y is None:
        raise Declined("reads a diagonal")
    return y


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
