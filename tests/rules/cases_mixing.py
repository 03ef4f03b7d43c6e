"""Contractions, convolutions, norms."""

from __future__ import annotations

import numpy as np

from meristem.rewrite.graph import Value
from tests.rules.cases import case, hidden
from tests.rules.view_carrier import Net

# -- mixing -----------------------------------------------------------------------------------------


@case("contract: bilinear")
def _bilinear(b: Net) -> Value:
    x = b.input(2, 3)
    p, q, w = b.dense(x, 4), b.dense(x, 5), b.weight(4, 5, 6)
    y = b.contract(p, w, [0, 1], [1, 2, 3], [0, 2, 3])
    return b.contract(q, y, [0, 2], [0, 2, 3], [0, 3])


@case("contract: a weight and its transpose")
def _transposed(b: Net) -> Value:
    w = b.weight(5, 3)
    h = b.apply("relu", b.linear(b.input(2, 3), w))
    return b.linear(h, b.permute(w, [1, 0]))


@case("contract: gram matrix")
def _gram(b: Net) -> Value:
    h = b.dense(b.input(2, 4, 3), 5)
    g = b.apply("mul", b.matmul(h, b.permute(h, [0, 2, 1])), b.literal(0.3))
    y = b.matmul(b.apply("softmax", g, axis=2), h)
    return b.reshape(y, [8, 5])


@case("contract: a weight with itself")
def _square(b: Net) -> Value:
    w = b.weight(4, 5)
    return b.linear(b.input(2, 4), b.matmul(w, b.permute(w, [1, 0])))


@case("contract: a norm before it and a scale after")
def _scaled(b: Net) -> Value:
    h = b.apply("relu", b.dense(b.rms(hidden(b, 4)), 6))
    return b.layer_norm(b.dense(b.apply("add", h, b.literal(0.5)), 5))


def _attention(b: Net, heads: int, kv: int, norm: bool = False, mask: bool = False) -> Value:
    x = b.input(2, 3, 4)
    q = b.permute(b.reshape(b.dense(x, heads * 6), [2, 3, heads, 6]), [0, 2, 1, 3])
    k = b.permute(b.reshape(b.dense(x, kv * 6), [2, 3, kv, 6]), [0, 2, 1, 3])
    v = b.permute(b.reshape(b.dense(x, kv * 5), [2, 3, kv, 5]), [0, 2, 1, 3])
    if norm:
        q, k = b.rms(q), b.rms(k)
    keep = None
    if mask:
        keep = b.literal(np.tril(np.ones((3, 3), bool)), "bool")
    y = b.attention(q, k, v, scale=6**-0.5, scale_role="scale", mask=keep)
    return b.reshape(b.permute(y, [0, 2, 1, 3]), [6, heads * 5])


@case("contract: attention")
def _heads(b: Net) -> Value:
    return _attention(b, 2, 2)


@case("contract: grouped attention with a mask")
def _grouped(b: Net) -> Value:
    return _attention(b, 4, 2, mask=True)


@case("contract: attention with norms of queries and keys")
def _qk_norm(b: Net) -> Value:
    return _attention(b, 2, 2, norm=True)


def conv(b: Net, x: Value, out: int, groups: int = 1, kernel: int = 3) -> Value:
    w = b.weight(out, x.shape[1] // groups, kernel)
    pads = [(kernel // 2, kernel // 2)]
    return b.convolution(
        x, w, b.weight(out), stride=[1], pads=pads, dilation=[1], groups=groups, groups_role="g"
    )


def tail(b: Net, y: Value) -> Value:
    return b.apply("sum", y, axes=(2,), keep=False, mean=True)


@case("conv: two layers")
def _convs(b: Net) -> Value:
    return tail(b, conv(b, b.apply("relu", conv(b, b.input(2, 3, 5), 4)), 6))


@case("conv: depthwise")
def _depthwise(b: Net) -> Value:
    y = b.apply("relu", conv(b, b.input(2, 3, 5), 4))
    return tail(b, b.apply("relu", conv(b, y, 4, groups=4)))


@case("conv: channel shuffle")
def _shuffle(b: Net) -> Value:
    y = conv(b, b.input(2, 3, 5), 6)
    y = b.apply("relu", conv(b, y, 6, groups=2))
    y = b.reshape(b.permute(b.reshape(y, [2, 2, 3, 5]), [0, 2, 1, 3]), [2, 6, 5])
    return tail(b, conv(b, y, 6, groups=2))


@case("conv: batch norm")
def _batch_norm(b: Net) -> Value:
    y = conv(b, b.input(2, 3, 5), 4)
    mean = b.weight(4, data=np.array([0.1, -0.3, 0.0, 0.4]), role="buffer")
    var = b.weight(4, data=np.array([0.5, 1.0, 2.0, 0.1]), role="buffer")
    eps = b.literal(0.1, "float64", "eps")
    rstd = b.apply("rsqrt", b.apply("add", var, eps))
    y = b.apply("sub", y, b.reshape(mean, [1, 4, 1]))
    y = b.apply("mul", y, b.reshape(rstd, [1, 4, 1]))
    y = b.apply("mul", y, b.reshape(b.weight(4), [1, 4, 1]))
    return tail(b, b.apply("relu", b.apply("add", y, b.reshape(b.weight(4), [1, 4, 1]))))


@case("conv: batch norm of two channels")
def _batch_norm_two(b: Net) -> Value:
    y = conv(b, b.input(2, 3, 5), 2)
    mean = b.weight(2, data=np.array([0.0, 0.0]), role="buffer")
    var = b.weight(2, data=np.array([1e-12, 4.0]), role="buffer")
    rstd = b.apply("rsqrt", b.apply("add", var, b.literal(0.1, "float64", "eps")))
    y = b.apply("sub", y, b.reshape(mean, [1, 2, 1]))
    return tail(b, b.apply("relu", b.apply("mul", y, b.reshape(rstd, [1, 2, 1]))))


@case("conv: squeeze and excite")
def _excite(b: Net) -> Value:
    y = b.apply("relu", conv(b, b.input(2, 3, 5), 6))
    s = b.apply("relu", b.dense(tail(b, y), 4))
    s = b.apply("sigmoid", b.dense(s, 6))
    return tail(b, b.apply("mul", y, b.reshape(s, [2, 6, 1])))


@case("grouped_contract: experts")
def _experts(b: Net) -> Value:
    x = hidden(b, 4, rows=6)
    ends = b.literal(np.array([2, 3, 6]), "int64")
    up, down = b.weight(3, 4, 7), b.weight(3, 7, 5)
    h = b.apply("silu", b.apply("grouped_contract", x, up, ends))
    return b.apply("grouped_contract", h, down, ends)


# -- norms ------------------------------------------------------------------------------------------


@case("norm: residual stream, rms")
def _stream(b: Net) -> Value:
    x = hidden(b, 4)
    for _ in range(2):
        h = b.apply("silu", b.dense(b.rms(x), 6, bias=False))
        x = b.apply("add", x, b.dense(h, 4, bias=False))
    return b.rms(x)


@case("norm: residual stream, layer norm")
def _stream_layer_norm(b: Net) -> Value:
    x = hidden(b, 4)
    for _ in range(2):
        x = b.apply("add", x, b.dense(b.apply("gelu", b.dense(b.layer_norm(x), 6)), 4))
    return b.layer_norm(x)


@case("norm: after the sum")
def _post(b: Net) -> Value:
    x = hidden(b, 4)
    for _ in range(2):
        x = b.layer_norm(b.apply("add", x, b.dense(b.apply("gelu", b.dense(x, 6)), 4)))
    return x


@case("norm: gains stored less one")
def _shifted(b: Net) -> Value:
    y = b.norm(hidden(b, 4), [-1], 0.1, False, "eps")
    return b.apply("mul", y, b.apply("add", b.weight(4), b.literal(1.0)))


@case("norm: groups")
def _group_norm(b: Net) -> Value:
    y = b.reshape(hidden(b, 6), [2, 2, 3])
    y = b.reshape(b.norm(y, [2], 0.1, True, "eps"), [2, 6])
    return b.apply("add", b.apply("mul", y, b.weight(6)), b.weight(6))


@case("norm: two axes")
def _two_axes(b: Net) -> Value:
    y = b.contract(b.input(2, 3), b.weight(4, 5, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    return b.reshape(b.norm(y, [1, 2], 0.1, False, "eps"), [2, 20])


@case("norm: without epsilon")
def _no_eps(b: Net) -> Value:
    y = b.norm(hidden(b, 4), [-1], 0.0, False, "eps")
    return b.apply("relu", y)


@case("norm: length one, divided by a clamped root")
def _normalize(b: Net) -> Value:
    h = hidden(b, 5)
    total = b.apply("sum", b.apply("mul", h, h), axes=(1,), keep=True, mean=False)
    return b.apply(
        "div", h, b.apply("maximum", b.apply("sqrt", total), b.literal(1e-6, "float64", "e"))
    )
