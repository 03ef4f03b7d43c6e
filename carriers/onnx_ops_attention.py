"""Fused attention and rotary embedding, spelled out with the vocabulary's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from meristem.carriers.onnx_ops import Call, Declined, onnx
from meristem.rewrite.graph import Value


@onnx("Attention")
def attention(c: Call) -> list[Any]:
    """Attention-23: (batch, heads, length, size), or (batch, length, heads * size) with head
    counts.

    Results: the attention, and on demand keys and values with the past in front of them.
    """
    flat = len(c.x(0).shape) == 3
    q = _heads(c, 0, "q_num_heads") if flat else c.x(0)
    k = _heads(c, 1, "kv_num_heads") if flat else c.x(1)
    v = _heads(c, 2, "kv_num_heads") if flat else c.x(2)
    past = 0
    if c.has(4) and c.has(5):
        past = c.x(4).shape[2]
        k, v = c.b.concat([c.x(4), k], 2), c.b.concat([c.x(5), v], 2)
    if c.wants(3) or c.has(6):
        raise Declined("the scores are used" if c.wants(3) else "padded caches")
    causal = bool(c.attr("is_causal", 0))
    mask = _wide(c, c.maybe(3), k.shape[2])
    left, right = int(c.attr("left_window_size", -1)), int(c.attr("right_window_size", -1))
    if (causal and past) or left >= 0 or right >= 0:
        keep = np.ones((q.shape[2], k.shape[2]), np.bool_)
        if causal or right >= 0:
            keep = np.tril(keep, past + (0 if causal else right))
        if left >= 0:
            keep = np.triu(keep, past - left)
        hidden = c.b.apply(
            "where",
            c.b.literal(keep, "bool"),
            c.b.literal(0.0, q.dtype),
            c.b.literal(-np.inf, q.dtype),
        )
        mask = _joined(c, mask, hidden)
        causal = False
    y = c.b.attention(
        q,
        k,
        v,
        scale=c.attr("scale"),
        scale_role=("attr", "scale"),
        mask=mask,
        causal=causal,
        after_scale=_cap(c),
    )
    if flat:
        n, heads, length, size = y.shape
        y = c.b.reshape(c.b.permute(y, [0, 2, 1, 3]), [n, length, heads * size])
    return [y, k if c.wants(1) else None, v if c.wants(2) else None]


def _heads(c: Call, i: int, name: str) -> Value:
    """[n, t, h * d] -> [n, h, t, d]."""
    x, heads = c.x(i), int(c.attr(name))
    n, length, width = x.shape
    role = ("map", ((2, ("attr", name)),), i)
    return c.b.permute(c.b.reshape(x, [n, length, heads, width // heads], role), [0, 2, 1, 3])


def _wide(c: Call, mask: Value | None, length: int) -> Value | None:
    """A mask shorter than the keys hides the rest."""
    if mask is None or mask.shape[-1] in (1, length):
        return mask
    pads = (*((0, 0),) * (len(mask.shape) - 1), (0, length - mask.shape[-1]))
    value = 0.0 if mask.dtype == "bool" else float("-inf")
    return c.b.apply("pad", mask, pads=pads, value=value)


def _joined(c: Call, mask: Value | None, hidden: Value) -> Value:
    if mask is None:
        return hidden
    if mask.dtype == "bool":
        return c.b.apply("where", mask, hidden, c.b.literal(-np.inf, hidden.dtype))
    return c.b.apply("add", mask, hidden)


def _cap(c: Call) -> Callable[[Value], Value] | None:
    """Soft-capped scores: cap * tanh(scores / cap)."""
    cap = float(c.attr("softcap", 0.0))
    if not cap:
        return None

    def apply(scores: Value) -> Value:
        factor = c.b.operand(cap, scores)
        y = c.b.apply("tanh", c.b.apply("div", scores, factor))
        return c.b.apply("mul", y, c.b.operand(cap, scores))

    return apply


@onnx("RotaryEmbedding")
def rotary(c: Call) -> Value:
    """RotaryEmbedding-23: pairs (x1, x2) -> (x1 cos - x2 sin, x1 sin + x2 cos).

    The halves of a head are the pairs, or neighbours where ``interleaved``.
    """
    x = c.x(0)
    flat = len(x.shape) == 3
    if flat:
        x = _rotary_heads(c, x)
    cos, sin = _angles(c)
    size = x.shape[-1]
    turned = int(c.attr("rotary_embedding_dim", 0)) or size
    rest, part = None, x
    if turned < size:
        role = ("attr", "rotary_embedding_dim")
        rest = c.b.slice(x, 3, turned, size, roles={"start": role})
        part = c.b.slice(x, 3, 0, turned, roles={"end": role})
    y = _turn(c, part, cos, sin, bool(c.attr("interleaved", 0)))
    if rest is not None:
        y = c.b.concat([y, rest], 3)
    if not flat:
        return y
    n, heads, length, size = y.shape
    return c.b.reshape(c.b.permute(y, [0, 2, 1, 3]), [n, length, heads * size])


def _rotary_heads(c: Call, x: Value) -> Value:
    heads = int(c.attr("num_heads", 0))
    if not heads:
        raise Declined("no number of heads")
    n, length, width = x.shape
    role = ("map", ((2, ("attr", "num_heads")),))
    return c.b.permute(c.b.reshape(x, [n, length, heads, width // heads], role), [0, 2, 1, 3])


def _angles(c: Call) -> list[Value]:
    """(batch, 1, length, size / 2) of both tables, read by position where positions are given."""
    tables = [c.x(1), c.x(2)]
    if c.has(3):  # side by side, because both must have the same positions
        both = c.b.apply("take", c.b.concat(tables, 1), c.x(3), axis=0)
        half = tables[0].shape[1]
        tables = [c.b.slice(both, 2, 0, half), c.b.slice(both, 2, half, 2 * half)]
    return [c.b.reshape(t, [t.shape[0], 1, *t.shape[1:]]) for t in tables]


def _turn(c: Call, x: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    half = x.shape[3] // 2
    if interleaved:
        pairs = c.b.reshape(x, [*x.shape[:3], half, 2])
        x1, x2 = (c.b.select(pairs, 4, i) for i in (0, 1))
    else:
        x1, x2 = c.b.slice(x, 3, 0, half), c.b.slice(x, 3, half, 2 * half)
    a = c.b.apply("sub", c.b.apply("mul", cos, x1), c.b.apply("mul", sin, x2))
    b = c.b.apply("add", c.b.apply("mul", sin, x1), c.b.apply("mul", cos, x2))
    if not interleaved:
        return c.b.concat([a, b], 3)
    a, b = (c.b.reshape(v, [*v.shape, 1]) for v in (a, b))
    return c.b.reshape(c.b.concat([a, b], 4), x.shape)
