"""Random small graphs: a stack of blocks drawn by hypothesis, over views (fast) of prime-like sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from meristem.rewrite.graph import Graph, Value
from tests.rules.view_carrier import Net

Draw = Callable[[Any], Any]
BLOCKS: dict[str, Callable[[Net, Value, Draw], Value]] = {}
# Elementwise operators that are finite everywhere.
SMOOTH = ("relu", "gelu", "silu", "tanh", "sigmoid", "abs", "neg", "erf", "cos", "softplus", "elu")
WIDTHS = st.sampled_from([2, 3, 4, 5, 6, 8])


def block(f: Callable[[Net, Value, Draw], Value]) -> Callable[[Net, Value, Draw], Value]:
    """x[batch, time, width] -> y[batch, time, other width]."""
    BLOCKS[f.__name__.strip("_")] = f
    return f


@block
def _dense(b: Net, x: Value, draw: Draw) -> Value:
    return b.dense(x, draw(WIDTHS), bias=draw(st.booleans()))


@block
def _function(b: Net, x: Value, draw: Draw) -> Value:
    return b.apply(draw(st.sampled_from(SMOOTH)), x)


@block
def _scalar(b: Net, x: Value, draw: Draw) -> Value:
    kind = draw(st.sampled_from(["add", "mul", "sub", "maximum", "minimum"]))
    return b.apply(kind, x, b.literal(draw(st.sampled_from([-1.0, 0.0, 0.5, 2.0])), role="v"))


@block
def _norm(b: Net, x: Value, draw: Draw) -> Value:
    kind = draw(st.sampled_from(["rms", "layer", "shifted", "bare"]))
    if kind == "layer":
        return b.layer_norm(x)
    if kind == "shifted":
        y = b.norm(x, [-1], 0.1, False, "eps")
        return b.apply("mul", y, b.apply("add", b.weight(x.shape[-1]), b.literal(1.0)))
    return b.rms(x, gain=kind == "rms")


@block
def _spelled_norm(b: Net, x: Value, draw: Draw) -> Value:
    """Not fused: its parts stand on their own."""
    total = b.apply("sum", b.apply("mul", x, x), axes=(2,), keep=True, mean=draw(st.booleans()))
    eps = b.literal(0.1, role="eps")
    return b.apply("mul", x, b.apply("rsqrt", b.apply("add", total, eps)))


@block
def _residual(b: Net, x: Value, draw: Draw) -> Value:
    y = b.rms(x) if draw(st.booleans()) else b.layer_norm(x)
    y = b.apply(draw(st.sampled_from(SMOOTH)), b.dense(y, draw(WIDTHS)))
    return b.apply("add", x, b.dense(y, x.shape[-1]))


@block
def _gated(b: Net, x: Value, draw: Draw) -> Value:
    n = draw(WIDTHS)
    if draw(st.booleans()):
        p, q = b.dense(x, n), b.dense(x, n)
    else:
        p, q = b.split(b.dense(x, 2 * n), 2, [n, n])
    y = b.apply("mul", b.apply("silu", p), q)
    return b.apply("add", x, b.dense(y, x.shape[-1]))


@block
def _pieces(b: Net, x: Value, draw: Draw) -> Value:
    n = x.shape[-1]
    k = draw(st.integers(1, n - 1)) if n > 1 else 0
    if not k:
        return x
    p, q = b.split(x, 2, [k, n - k])
    p = b.apply(draw(st.sampled_from(SMOOTH)), p)
    return b.concat(draw(st.permutations([p, q])), 2)


@block
def _grow_concat(b: Net, x: Value, draw: Draw) -> Value:
    return b.concat([x, b.apply("relu", b.dense(x, draw(WIDTHS)))], 2)


@block
def _heads(b: Net, x: Value, draw: Draw) -> Value:
    kv, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    d, e = draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 3]))
    n, t, width = x.shape

    def split(v: Value, heads: int, size: int) -> Value:
        return b.permute(b.reshape(v, [n, t, heads, size]), [0, 2, 1, 3])

    q = split(b.dense(x, kv * group * d), kv * group, d)
    k, v = split(b.dense(x, kv * d), kv, d), split(b.dense(x, kv * e), kv, e)
    if draw(st.booleans()):
        q, k = _rotary(b, q, draw), _rotary(b, k, draw)
    if draw(st.booleans()):
        q, k = b.rms(q), b.rms(k)
    if group > 1 and draw(st.booleans()):
        k, v = b.repeat_each(k, group, 1), b.repeat_each(v, group, 1)
    mask = b.literal(np.tril(np.ones((t, t), bool)), "bool") if draw(st.booleans()) else None
    y = b.attention(q, k, v, scale_role="scale", mask=mask)
    y = b.reshape(b.permute(y, [0, 2, 1, 3]), [n, t, kv * group * e])
    y = b.dense(y, width)
    return b.apply("add", x, y) if draw(st.booleans()) else y


def _rotary(b: Net, q: Value, draw: Draw) -> Value:
    """Halves or interleaved pairs, by angles that a buffer gives."""
    t, d = q.shape[-2:]
    table = b.weight(d // 2, data=10.0 ** -np.arange(d // 2), role="buffer")
    steps = b.apply("range", start=0, step=1, length=t, dtype="float64")
    angle = b.contract(steps, table, [0], [1], [0, 1])
    cos, sin = b.apply("cos", angle), b.apply("sin", angle)
    if draw(st.booleans()):
        p, r = b.split(q, 3, [d // 2, d // 2])
    else:
        p, r = (b.slice(q, 3, i, d, 2) for i in (0, 1))
    u = b.apply("sub", b.apply("mul", p, cos), b.apply("mul", r, sin))
    v = b.apply("add", b.apply("mul", r, cos), b.apply("mul", p, sin))
    return b.concat([u, v], 3)


@block
def _regroup(b: Net, x: Value, draw: Draw) -> Value:
    n, t, width = x.shape
    factors = [k for k in range(2, width) if width % k == 0]
    if not factors:
        return x
    k = draw(st.sampled_from(factors))
    y = b.permute(b.reshape(x, [n, t, k, width // k]), [0, 1, 3, 2])
    y = b.apply("softmax", y, axis=3) if draw(st.integers(0, 4)) == 0 else y
    return b.reshape(y, [n, t, width])


@block
def _pool_along(b: Net, x: Value, draw: Draw) -> Value:
    """Squeeze and excite over time."""
    s = b.apply("sum", x, axes=(1,), keep=True, mean=True)
    return b.apply("mul", x, b.apply("sigmoid", b.dense(s, x.shape[-1])))


@block
def _mean_width(b: Net, x: Value, draw: Draw) -> Value:
    s = b.apply("sum", x, axes=(2,), keep=True, mean=draw(st.booleans()))
    return b.concat([x, s], 2) if draw(st.booleans()) else b.apply("sub", x, s)


@block
def _convolve(b: Net, x: Value, draw: Draw) -> Value:
    width = x.shape[-1]
    y = b.permute(x, [0, 2, 1])
    groups = draw(st.sampled_from([g for g in (1, 2, 3, width) if width % g == 0]))
    out = groups * draw(st.sampled_from([1, 2]))
    w = b.weight(out, width // groups, 3)
    y = b.convolution(
        y, w, b.weight(out), stride=[1], pads=[(1, 1)], dilation=[1], groups=groups, groups_role="g"
    )
    return b.permute(y, [0, 2, 1])


@block
def _quotient(b: Net, x: Value, draw: Draw) -> Value:
    below = b.dense(x, x.shape[-1])
    kind = draw(st.sampled_from(["exp", "clamp", "root"]))
    if kind == "exp":
        below = b.apply("exp", b.apply("tanh", below))
    elif kind == "clamp":
        below = b.apply("maximum", b.apply("abs", below), b.literal(0.2, role="v"))
    else:
        square = b.apply("mul", below, below)
        below = b.apply("sqrt", b.apply("add", b.apply("abs", square), b.literal(0.3, role="v")))
    return b.apply("div", x, below)


@block
def _tied(b: Net, x: Value, draw: Draw) -> Value:
    w = b.weight(draw(WIDTHS), x.shape[-1])
    h = b.apply(draw(st.sampled_from(SMOOTH)), b.linear(x, w))
    return b.linear(h, b.permute(w, [1, 0]))


@block
def _bilinear(b: Net, x: Value, draw: Draw) -> Value:
    p, q = b.dense(x, 2), b.dense(x, 3)
    y = b.contract(p, q, [0, 1, 2], [0, 1, 3], [0, 1, 2, 3])
    return b.reshape(y, [*x.shape[:2], 6])


@block
def _padded(b: Net, x: Value, draw: Draw) -> Value:
    value = draw(st.sampled_from([0.0, 1.0]))
    return b.apply("pad", x, pads=((0, 0), (0, 0), (0, 2)), value=value)


@block
def _pick(b: Net, x: Value, draw: Draw) -> Value:
    """Coordinates by constant indices, from either end."""
    n = x.shape[-1]
    chosen = draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=4))
    y = b.apply("take", x, b.literal(np.array(chosen), "int64"), axis=2)
    return b.concat([x, y], 2) if draw(st.booleans()) else y


@block
def _table(b: Net, x: Value, draw: Draw) -> Value:
    """An embedding of integers beside the stream."""
    ids = b.input(2, 3, dtype="int64")
    y = b.apply("take", b.weight(5, x.shape[-1]), ids, axis=0, unsigned=True)
    return b.apply("add", x, y)


@block
def _choose(b: Net, x: Value, draw: Draw) -> Value:
    other = b.dense(x, x.shape[-1])
    condition = b.apply("gt", draw(st.sampled_from([x, other])), b.literal(0.1, role="v"))
    return b.apply("where", condition, x, draw(st.sampled_from([other, b.literal(0.0)])))


@st.composite
def graphs(draw: Draw, most: int = 4) -> Graph:
    """A stack of up to ``most`` blocks between a dense layer and a dense layer."""
    b = Net(draw(st.integers(0, 3)))
    x = b.dense(b.input(2, 3, 4), draw(WIDTHS))
    for name in draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=most)):
        x = BLOCKS[name](b, x, draw)
    if draw(st.booleans()):
        x = b.rms(x) if draw(st.booleans()) else b.layer_norm(x)
    return b.output(b.dense(x, 2))
