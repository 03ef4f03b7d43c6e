"""Operators that move coordinates, and norms of what they make."""

from __future__ import annotations

from meristem.rewrite.graph import Value
from tests.rules.cases import case, hidden
from tests.rules.view_carrier import Net

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


@case("slice: rotated halves behind heads")
def _rotated(b: Net) -> Value:
    """Both halves of a head are one atom, so an axis has equal blocks at several places."""
    h = b.reshape(hidden(b, 12), [2, 3, 4])
    p, q = b.split(h, 2, [2, 2])
    turned = b.concat([b.apply("neg", q), p], 2)
    cos, sin = b.weight(4), b.weight(4)
    y = b.apply("add", b.apply("mul", h, cos), b.apply("mul", turned, sin))
    return b.reshape(y, [2, 12])


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


@case("rearrange: flipped rows of which some are padding")
def _flip_padded(b: Net) -> Value:
    y = b.apply("pad", hidden(b, 4), pads=((1, 0), (0, 0)), value=0.0)
    return b.apply("relu", b.apply("rearrange", y, how="flip", axes=(0,)))


@case("slice: every third row of some that are padding")
def _uneven_padded(b: Net) -> Value:
    y = b.apply("pad", hidden(b, 4, rows=6), pads=((1, 0), (0, 0)), value=0.0)
    return b.apply("relu", b.slice(y, 0, 0, 7, 3))
