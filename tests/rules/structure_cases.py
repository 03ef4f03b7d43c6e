"""Small graphs for the operators that move, mix, read or look along axes; named ``kind: what``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meristem.rewrite.graph import Graph, Value
from tests.rules.view_carrier import Net

CASES: dict[str, Callable[[], Graph]] = {}


def case(name: str) -> Callable[[Callable[[Net], Value]], Callable[[Net], Value]]:
    """Register a graph; the function returns what a last dense layer reads."""

    def add(f: Callable[[Net], Value]) -> Callable[[Net], Value]:
        def build() -> Graph:
            b = Net()
            return b.output(b.dense(f(b), 2))

        CASES[name] = build
        return f

    return add


def hidden(b: Net, width: int = 6, rows: int = 2) -> Value:
    return b.dense(b.input(rows, 3), width)


# -- moving -----------------------------------------------------------------------------------------


@case("reshape: split and merge")
def _reshape(b: Net) -> Value:
    y = b.reshape(hidden(b), [2, 2, 3])
    y = b.apply("relu", b.permute(y, [0, 2, 1]))
    return b.reshape(y, [2, 6])


@case("reshape: outer product flattened")
def _outer(b: Net) -> Value:
    x = b.input(2, 3)
    p, q = b.dense(x, 4), b.dense(x, 5)
    y = b.contract(p, q, [0, 1], [0, 2], [0, 1, 2])
    return b.apply("gelu", b.reshape(y, [2, 20]))


@case("reshape: factors that do not align")
def _conflict(b: Net) -> Value:
    x = b.input(2, 3)
    w = b.weight(4, 6, 3)
    y = b.contract(x, w, [0, 9], [1, 2, 9], [0, 1, 2])
    y = b.permute(b.reshape(y, [2, 6, 4]), [0, 2, 1])
    return b.reshape(y, [2, 24])


@case("permute: two grown axes")
def _permute(b: Net) -> Value:
    x = b.input(2, 3)
    y = b.contract(x, b.weight(4, 6, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    y = b.layer_norm(b.permute(y, [0, 2, 1]))
    return b.reshape(b.permute(y, [2, 0, 1]), [8, 6])


@case("expand: copies along a grown axis")
def _expand(b: Net) -> Value:
    y = b.expand(b.reshape(hidden(b, 4), [2, 4, 1]), [2, 4, 3])
    y = b.apply("mul", y, b.weight(4, 3))
    return b.reshape(y, [2, 12])


@case("expand: grouped heads repeated")
def _groups(b: Net) -> Value:
    y = b.repeat_each(hidden(b, 4), 3, 1)
    return b.apply("silu", b.apply("mul", y, b.weight(12)))


@case("expand: tiles")
def _tile(b: Net) -> Value:
    return b.apply("tanh", b.apply("mul", b.tile(hidden(b, 4), [1, 3]), b.weight(12)))


@case("expand: a mean of copies")
def _expand_mean(b: Net) -> Value:
    y = b.expand(b.reshape(hidden(b, 4), [2, 4, 1]), [2, 4, 3])
    y = b.apply("mul", y, b.weight(4, 3))
    return b.apply("sum", y, axes=(2,), keep=False, mean=True)


@case("slice: halves, one gates the other")
def _glu(b: Net) -> Value:
    p, q = b.split(hidden(b, 8), 1, [4, 4])
    return b.apply("mul", p, b.apply("sigmoid", q))


@case("slice: thirds of different sizes")
def _thirds(b: Net) -> Value:
    p, q, r = b.split(hidden(b, 9), 1, [2, 4, 3])
    return b.concat([b.apply("relu", r), b.rms(q), p], 1)


@case("slice: the middle, after a grown piece")
def _middle(b: Net) -> Value:
    h = hidden(b, 7)
    return b.concat([b.slice(h, 1, 2, 6), b.apply("relu", b.slice(h, 1, 0, 3))], 1)


@case("slice: every second")
def _strided(b: Net) -> Value:
    h = hidden(b, 6)
    even, odd = b.slice(h, 1, 0, 6, 2), b.slice(h, 1, 1, 6, 2)
    return b.concat([b.apply("neg", odd), even], 1)


@case("slice: every second, interleaved rotary")
def _interleaved(b: Net) -> Value:
    h = hidden(b, 6)
    even, odd = b.slice(h, 1, 0, 6, 2), b.slice(h, 1, 1, 6, 2)
    cos, sin = b.weight(3), b.weight(3)
    p = b.apply("sub", b.apply("mul", even, cos), b.apply("mul", odd, sin))
    q = b.apply("add", b.apply("mul", odd, cos), b.apply("mul", even, sin))
    both = b.concat([b.reshape(p, [2, 3, 1]), b.reshape(q, [2, 3, 1])], 2)
    return b.reshape(both, [2, 6])


@case("slice: every third, which does not divide")
def _uneven(b: Net) -> Value:
    return b.apply("relu", b.slice(hidden(b, 7), 1, 0, 7, 3))


@case("slice: every second of a part")
def _strided_part(b: Net) -> Value:
    return b.apply("relu", b.slice(hidden(b, 8), 1, 0, 4, 2))


@case("slice: one coordinate from the end")
def _select(b: Net) -> Value:
    h = hidden(b, 5)
    return b.concat([b.reshape(b.select(h, 1, -2), [2, 1]), b.apply("relu", h)], 1)


@case("slice: empty")
def _empty(b: Net) -> Value:
    h = hidden(b, 5)
    return b.concat([b.slice(h, 1, 2, 2), h], 1)


@case("concat: dense connections")
def _densenet(b: Net) -> Value:
    x = b.apply("relu", hidden(b, 4))
    y = b.concat([x, b.apply("relu", b.dense(x, 3))], 1)
    return b.concat([y, b.apply("relu", b.dense(y, 5))], 1)


@case("concat: pieces of different factors")
def _pieces(b: Net) -> Value:
    x = b.input(2, 3)
    return b.apply("relu", b.concat([b.rms(b.dense(x, 4), gain=False), b.dense(x, 3)], 1))


@case("concat: a norm over the pieces")
def _pieces_norm(b: Net) -> Value:
    x = b.input(2, 3)
    return b.rms(b.concat([b.dense(x, 4), b.dense(x, 3)], 1))


@case("concat: a layer norm over a wide and a single piece")
def _single(b: Net) -> Value:
    x = b.input(2, 3)
    return b.layer_norm(b.concat([b.dense(x, 4), b.dense(x, 1)], 1))


@case("concat: a layer norm over the pieces")
def _pieces_layer_norm(b: Net) -> Value:
    x = b.input(2, 3)
    return b.layer_norm(b.concat([b.dense(x, 4), b.dense(x, 3)], 1))


@case("pad: zeros beside a grown axis")
def _pad(b: Net) -> Value:
    return b.rms(b.apply("pad", hidden(b, 4), pads=((0, 0), (1, 2)), value=0.0))


@case("pad: ones beside a grown axis")
def _pad_ones(b: Net) -> Value:
    return b.apply("relu", b.apply("pad", b.rms(hidden(b, 4)), pads=((0, 0), (1, 2)), value=1.0))


@case("pad: another axis")
def _pad_other(b: Net) -> Value:
    y = b.apply("pad", hidden(b, 4), pads=((1, 0), (0, 0)), value=0.5)
    return b.layer_norm(b.apply("mul", y, b.literal(2.0)))


@case("rearrange: flipped")
def _flip(b: Net) -> Value:
    return b.apply("rearrange", hidden(b, 4), how="flip", axes=(1,))


@case("rearrange: rolled rows")
def _roll(b: Net) -> Value:
    return b.apply("rearrange", hidden(b, 4), how="roll", axes=(0,), shifts=(1,))


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


def _conv(b: Net, x: Value, out: int, groups: int = 1, kernel: int = 3) -> Value:
    w = b.weight(out, x.shape[1] // groups, kernel)
    pads = [(kernel // 2, kernel // 2)]
    return b.convolution(
        x, w, b.weight(out), stride=[1], pads=pads, dilation=[1], groups=groups, groups_role="g"
    )


def _tail(b: Net, y: Value) -> Value:
    return b.apply("sum", y, axes=(2,), keep=False, mean=True)


@case("conv: two layers")
def _convs(b: Net) -> Value:
    return _tail(b, _conv(b, b.apply("relu", _conv(b, b.input(2, 3, 5), 4)), 6))


@case("conv: depthwise")
def _depthwise(b: Net) -> Value:
    y = b.apply("relu", _conv(b, b.input(2, 3, 5), 4))
    return _tail(b, b.apply("relu", _conv(b, y, 4, groups=4)))


@case("conv: channel shuffle")
def _shuffle(b: Net) -> Value:
    y = _conv(b, b.input(2, 3, 5), 6)
    y = b.apply("relu", _conv(b, y, 6, groups=2))
    y = b.reshape(b.permute(b.reshape(y, [2, 2, 3, 5]), [0, 2, 1, 3]), [2, 6, 5])
    return _tail(b, _conv(b, y, 6, groups=2))


@case("conv: batch norm")
def _batch_norm(b: Net) -> Value:
    y = _conv(b, b.input(2, 3, 5), 4)
    mean = b.weight(4, data=np.array([0.1, -0.3, 0.0, 0.4]), role="buffer")
    var = b.weight(4, data=np.array([0.5, 1.0, 2.0, 0.1]), role="buffer")
    eps = b.literal(0.1, "float64", "eps")
    rstd = b.apply("rsqrt", b.apply("add", var, eps))
    y = b.apply("sub", y, b.reshape(mean, [1, 4, 1]))
    y = b.apply("mul", y, b.reshape(rstd, [1, 4, 1]))
    y = b.apply("mul", y, b.reshape(b.weight(4), [1, 4, 1]))
    return _tail(b, b.apply("relu", b.apply("add", y, b.reshape(b.weight(4), [1, 4, 1]))))


@case("conv: batch norm of two channels")
def _batch_norm_two(b: Net) -> Value:
    y = _conv(b, b.input(2, 3, 5), 2)
    mean = b.weight(2, data=np.array([0.0, 0.0]), role="buffer")
    var = b.weight(2, data=np.array([1e-12, 4.0]), role="buffer")
    rstd = b.apply("rsqrt", b.apply("add", var, b.literal(0.1, "float64", "eps")))
    y = b.apply("sub", y, b.reshape(mean, [1, 2, 1]))
    return _tail(b, b.apply("relu", b.apply("mul", y, b.reshape(rstd, [1, 2, 1]))))


@case("conv: squeeze and excite")
def _excite(b: Net) -> Value:
    y = b.apply("relu", _conv(b, b.input(2, 3, 5), 6))
    s = b.apply("relu", b.dense(_tail(b, y), 4))
    s = b.apply("sigmoid", b.dense(s, 6))
    return _tail(b, b.apply("mul", y, b.reshape(s, [2, 6, 1])))


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


# -- reading by index -------------------------------------------------------------------------------


@case("take: embedding")
def _embedding(b: Net) -> Value:
    ids = b.input(2, 3, dtype="int64")
    y = b.apply("take", b.weight(5, 4), ids, axis=0, unsigned=True)
    return b.reshape(b.rms(y), [6, 4])


@case("take: a constant negative index")
def _negative(b: Net) -> Value:
    h = hidden(b, 5)
    return b.concat([b.apply("take", h, b.literal(np.array([-2, 0]), "int64"), axis=1), h], 1)


@case("take: one constant index for two axes")
def _shared_index(b: Net) -> Value:
    x = b.input(2, 3)
    i = b.literal(np.array([-2, 0]), "int64")
    p, q = b.dense(x, 5), b.dense(x, 7)
    parts = [b.apply("take", h, i, axis=1) for h in (p, q)]
    return b.concat([*parts, b.apply("relu", b.concat([p, q], 1))], 1)


@case("take: an axis that grows in its middle")
def _middle_index(b: Net) -> Value:
    x = b.input(2, 3)
    h = b.concat([b.dense(x, 3), b.dense(x, 2)], 1)
    picked = b.apply("take", h, b.literal(np.array([4, 1, 3]), "int64"), axis=1)
    return b.concat([picked, b.apply("relu", h)], 1)


@case("take: an index that depends on the data")
def _data_index(b: Net) -> Value:
    ids = b.apply("sub", b.input(2, dtype="int64"), b.literal(1, "int64"))
    y = b.apply("take", b.weight(5, 4), ids, axis=0)
    return b.apply("relu", y)


@case("take: a range of positions into a table")
def _positions(b: Net) -> Value:
    t = b.apply("range", start=0, step=1, length=3, dtype="int64")
    y = b.apply("add", b.apply("take", b.weight(3, 4), t, axis=0), b.weight(3, 4))
    y = b.apply("mul", y, b.reshape(b.dense(b.input(2, 3), 4), [2, 1, 4]))
    return b.dense(b.permute(y, [0, 2, 1]), 5)


@case("take_many: a table of two axes")
def _take_many(b: Net) -> Value:
    i, j = b.literal(np.array([0, 1]), "int64"), b.literal(np.array([1, 2]), "int64")
    bias = b.emit("take_many", [b.weight(2, 3, 5), i, j], {"axes": [0, 1]}).output
    return b.apply("relu", b.apply("add", b.dense(b.input(2, 3), 5), bias))


@case("take_along: the largest of every row")
def _take_along(b: Net) -> Value:
    h = b.dense(b.input(2, 4, 3), 5)
    best = b.apply("extremum", h, axes=(1,), keep=True, how="argmax")
    return b.reshape(b.apply("take_along", h, best, axis=1), [2, 5])


# -- looking along axes -----------------------------------------------------------------------------


@case("sum: squares")
def _sum(b: Net) -> Value:
    h = hidden(b, 5)
    total = b.apply("sum", b.apply("mul", h, h), axes=(1,), keep=True, mean=False)
    return b.concat([total, h], 1)


@case("sum: mean over a grown axis")
def _mean(b: Net) -> Value:
    y = b.apply("sum", b.apply("gelu", hidden(b, 5)), axes=(1,), keep=True, mean=True)
    return b.dense(y, 3)


@case("sum: over two grown axes")
def _sum_two(b: Net) -> Value:
    y = b.contract(b.input(2, 3), b.weight(4, 5, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    y = b.apply("sum", b.apply("relu", y), axes=(1, 2), keep=False, mean=False)
    return b.dense(b.reshape(y, [2, 1]), 3)


@case("sum: mean over pieces")
def _sum_pieces(b: Net) -> Value:
    x = b.input(2, 3)
    y = b.concat([b.dense(x, 4), b.dense(x, 3)], 1)
    return b.dense(b.apply("sum", y, axes=(1,), keep=True, mean=True), 3)


@case("sum: of a kept grown axis")
def _sum_kept(b: Net) -> Value:
    h = b.dense(b.input(2, 4, 3), 5)
    return b.layer_norm(b.apply("sum", h, axes=(1,), keep=False, mean=True))


@case("sum: ones of the size of an axis")
def _count(b: Net) -> Value:
    h = hidden(b, 5)
    ones = b.apply("full", shape=(2, 5), value=1.0, dtype="float64")
    y = b.apply("add", h, ones)
    total = b.apply("sum", ones, axes=(1,), keep=True, mean=False)
    return b.apply("add", b.dense(y, 3), total)


@case("extremum: maxout")
def _maxout(b: Net) -> Value:
    y = b.reshape(hidden(b, 12), [2, 4, 3])
    return b.apply("extremum", y, axes=(2,), keep=False, how="max")


@case("extremum: over a grown axis")
def _max_hidden(b: Net) -> Value:
    return b.dense(b.apply("extremum", hidden(b, 4), axes=(1,), keep=True, how="max"), 3)


@case("softmax: over a grown axis")
def _softmax(b: Net) -> Value:
    return b.apply("softmax", hidden(b, 4), axis=1)


@case("softmax: of every head")
def _softmax_heads(b: Net) -> Value:
    y = b.reshape(hidden(b, 12), [2, 3, 4])
    return b.reshape(b.apply("softmax", b.rms(y), axis=2), [2, 12])


@case("softmax: log, beside a grown axis")
def _log_softmax(b: Net) -> Value:
    y = b.dense(b.input(2, 4, 3), 5)
    return b.reshape(b.apply("softmax", y, axis=1, log=True), [8, 5])


for _how in ("cumsum", "diff", "sort", "argsort", "topk", "topk_index", "tril"):

    @case(f"scan: {_how} of a grown axis")
    def _scan(b: Net, how: str = _how) -> Value:
        y = b.apply("scan", hidden(b, 4), how=how, axis=1, k=2)
        if not y.is_float:
            y = b.apply("cast", y, options={"to": "float64"}, dtype="float64")
        return b.apply("relu", y)

    @case(f"scan: {_how} beside a grown axis")
    def _scan_beside(b: Net, how: str = _how) -> Value:
        h = b.rms(b.dense(b.input(2, 4, 3), 5))
        h = b.permute(h, [2, 0, 1]) if how == "tril" else h
        y = b.apply("scan", h, how=how, axis=1, k=2)
        y = b.permute(y, [1, 2, 0]) if how == "tril" else y
        if not y.is_float:
            y = b.apply("cast", y, options={"to": "float64"}, dtype="float64")
        return b.reshape(y, [-1 if y.shape[1] == 0 else y.shape[0] * y.shape[1], 5])


for _how in ("max", "mean"):

    @case(f"pool: {_how}")
    def _pool(b: Net, how: str = _how) -> Value:
        y = b.apply("relu", _conv(b, b.input(2, 3, 6), 4))
        y = b.apply("pool", y, how=how, kernel=(2,), stride=(2,), pads=(0,), ceil=False)
        return _tail(b, y)

    @case(f"pool: {_how}, norm on either side")
    def _pool_norm(b: Net, how: str = _how) -> Value:
        y = b.permute(b.dense(b.input(2, 6, 3), 4), [0, 2, 1])
        y = b.norm(y, [1], 0.1, False, "eps")
        y = b.apply("pool", y, how=how, kernel=(3,), stride=(2,), pads=(1,), ceil=False)
        return b.reshape(b.rms(b.permute(y, [0, 2, 1])), [6, 4])


# -- making -----------------------------------------------------------------------------------------


@case("full: a constant beside weights")
def _full(b: Net) -> Value:
    h = b.rms(hidden(b, 5))
    return b.apply("mul", h, b.apply("full", shape=(5,), value=0.5, dtype="float64"))


@case("range: slopes of heads")
def _range(b: Net) -> Value:
    t = b.apply("range", start=1, step=1, length=4, dtype="float64")
    slopes = b.apply("exp", b.apply("neg", t))
    return b.apply("relu", b.apply("mul", hidden(b, 4), slopes))


@case("range: beside a norm")
def _range_norm(b: Net) -> Value:
    t = b.apply("range", start=0, step=1, length=4, dtype="float64")
    return b.layer_norm(b.apply("add", hidden(b, 4), t))


@case("opaque: nothing passes")
def _opaque(b: Net) -> Value:
    """A barrier cannot be evaluated, so it is a dead end here; its pins are what counts."""
    h = hidden(b, 4)
    b.opaque([h], [(2, 4)], ["float64"])
    b.graph.ops.pop()
    return b.apply("relu", h)


@case("literal: a table beside a grown axis")
def _table(b: Net) -> Value:
    return b.apply("mul", hidden(b, 4), b.literal(np.array([1.0, -0.5, 2.0, 0.3])))


@case("pow: a table of exponents")
def _exponents(b: Net) -> Value:
    h = b.apply("exp", b.rms(hidden(b, 4)))
    return b.apply("pow", h, b.literal(np.array([1.0, 0.5, 2.0, 3.0])))


@case("pow: exponents that are weights")
def _weight_exponents(b: Net) -> Value:
    base = b.weight(data=np.array(-2.0))
    p = b.weight(4, data=np.array([1.0, 2.0, 3.0, 2.0]))
    return b.apply("mul", hidden(b, 4), b.apply("pow", base, p))


# -- where one rule alone stands between a growth and a wrong answer ----------------------------------


@case("holes: 0/0 at new coordinates")
def _zero_by_zero(b: Net) -> Value:
    h = hidden(b, 5)
    return b.rms(b.apply("div", h, b.apply("abs", h)))


@case("holes: a bias beside a scaled product")
def _bias(b: Net) -> Value:
    h = b.contract(b.rms(hidden(b, 4), gain=False), b.literal(np.ones(())), [0, 1], [], [0, 1])
    return b.apply("add", h, b.weight(4))


@case("contract: bilinear, mean")
def _bilinear_mean(b: Net) -> Value:
    x = b.input(2, 3)
    return b.layer_norm(b.contract(b.dense(x, 4), b.dense(x, 4), [0, 1], [0, 1], [0, 1]))


@case("norm: without epsilon, more rows")
def _no_eps_rows(b: Net) -> Value:
    y = b.reshape(hidden(b, 6), [2, 2, 3])
    return b.rms(b.reshape(b.norm(y, [2], 0.0, False, "eps"), [2, 6]))


@case("concat: two rows of one width")
def _rows(b: Net) -> Value:
    return b.apply("relu", b.concat([hidden(b, 4), hidden(b, 4)], 0))


@case("extremum: over a grown axis, least")
def _min_hidden(b: Net) -> Value:
    return b.dense(b.apply("extremum", hidden(b, 4), axes=(1,), keep=True, how="min"), 3)


@case("sum: of a kept grown axis, after a relu")
def _sum_relu(b: Net) -> Value:
    h = b.apply("relu", b.dense(b.input(2, 4, 3), 5))
    return b.layer_norm(b.apply("sum", h, axes=(1,), keep=False, mean=False))


@case("softmax: of every head, alone")
def _softmax_scaled(b: Net) -> Value:
    y = b.reshape(b.rms(hidden(b, 12), gain=False), [2, 3, 4])
    return b.reshape(b.apply("softmax", y, axis=2), [2, 12])


@case("softmax: beside a layer norm")
def _softmax_mean(b: Net) -> Value:
    y = b.apply("softmax", b.dense(b.input(2, 4, 3), 5), axis=1)
    return b.reshape(b.layer_norm(y), [8, 5])


@case("pool: max, layer norm after it")
def _pool_mean(b: Net) -> Value:
    y = b.permute(b.dense(b.input(2, 6, 3), 4), [0, 2, 1])
    y = b.apply("pool", y, how="max", kernel=(2,), stride=(2,), pads=(0,), ceil=False)
    return b.reshape(b.layer_norm(b.permute(y, [0, 2, 1])), [6, 4])


def _scaled_output() -> Graph:
    b = Net()
    y = b.apply("sum", b.apply("relu", hidden(b, 5)), axes=(1,), keep=True, mean=True)
    return b.output(y)


CASES["sum: a mean that is the output"] = _scaled_output


@case("take_many: from the end")
def _take_many_end(b: Net) -> Value:
    i, j = b.literal(np.array([0, -1]), "int64"), b.literal(np.array([1, 2]), "int64")
    bias = b.emit("take_many", [b.weight(2, 3, 5), i, j], {"axes": [0, 1]}).output
    return b.apply("relu", b.apply("add", b.dense(b.input(2, 3), 5), bias))
