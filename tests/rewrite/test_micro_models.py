"""Adversarial micro-models (torch): what they accept is exact, and what they refuse is listed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.rules.torch_growing import grow_module, traced


class Micro(nn.Module):
    """Parameters by name and shape, submodules by name; ``f(self, x)`` is the forward pass."""

    def __init__(self, f, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.f = f
        for name, part in parts.items():
            made = part() if callable(part) else nn.Parameter(torch.randn(part) * 0.5)
            setattr(self, name, made)

    def forward(self, *args):
        return self.f(self, *args)


def linear(i, o, **kw):
    return lambda: nn.Linear(i, o, **kw)


def maxout(m, x):
    return m.out(m.up(x).unflatten(-1, (4, 3)).amax(-1))


def excite(m, x):
    y = m.conv(x).relu()
    s = torch.sigmoid(m.b(m.a(y.mean((2, 3))).relu()))
    return m.last(y * s[:, :, None, None])


def shuffle(m, x):
    y = m.one(x)
    n, c, h, w = y.shape
    y = y.reshape(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
    return m.last(m.two(y).relu())


def autoencoder(m, x):
    return F.linear(F.linear(x, m.w, m.b).relu(), m.w.t(), m.c)


def bilinear(m, x, y):
    return torch.einsum(
        "bk,ko->bo", torch.einsum("bi,ijk->bjk", m.p(x), m.w).flatten(1), m.v
    ) + m.q(y)


def gru(m, x):
    h = x.new_zeros(2, 6)
    for t in range(3):
        z, r, n = m.x(x[:, t]).chunk(3, -1)
        hz, hr, hn = m.h(h).chunk(3, -1)
        z, r = torch.sigmoid(z + hz), torch.sigmoid(r + hr)
        h = (1 - z) * torch.tanh(n + r * hn) + z * h
    return m.out(h)


def dense_net(m, x):
    for layer in (m.a, m.b, m.c):
        x = torch.cat([x, layer(F.relu(x))], -1)
    return m.out(m.mid(x).relu())


def outer(m, x):
    p, q = m.p(x), m.q(x)
    return m.out((p[:, :, None] * q[:, None, :]).flatten(1).relu())


def gram(m, x):
    h = m.a(x)
    return m.out((h @ h.mT * 0.2).softmax(-1) @ h)


def one_plus(m, x):
    for _ in range(2):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1) * (1 + m.g)
        x = x + m.b(F.silu(m.a(y)))
    return m.out(x)


def normalized(m, x):
    return m.out(F.normalize(m.a(x), dim=-1))


def alibi(m, x):
    q, k, v = (p.unflatten(-1, (4, 3)).transpose(1, 2) for p in m.qkv(x).chunk(3, -1))
    slopes = 2.0 ** -torch.arange(1, 5)
    steps = torch.arange(5)
    bias = slopes[:, None, None] * (steps[None] - steps[:, None])
    y = ((q @ k.mT) * 3**-0.5 + bias).softmax(-1) @ v
    return m.out(y.transpose(1, 2).flatten(2))


def grouped(m, x):
    q = m.q(x).unflatten(-1, (4, 3)).transpose(1, 2)
    k, v = (p.unflatten(-1, (2, 3)).transpose(1, 2) for p in m.kv(x).chunk(2, -1))
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.out(y.transpose(1, 2).flatten(2))


def interleaved(m, x):
    q = m.a(x).unflatten(-1, (2, 4))
    even, odd = q[..., ::2], q[..., 1::2]
    angle = torch.arange(5)[:, None, None] * m.w
    y = torch.stack(
        [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1
    )
    return m.out(y.flatten(2))


def slices(m, x):
    return m.out(F.linear(x, m.w[:4]) * F.linear(x, m.w[4:], m.b[4:]))


X, IMAGE = (2, 5, 4), (2, 3, 6, 6)
conv = lambda *a, **k: lambda: nn.Conv2d(*a, **k)  # noqa: E731
EXACT = {
    "maxout": (Micro(maxout, up=linear(4, 12), out=linear(4, 3)), [X]),
    "squeeze and excite": (
        Micro(excite, conv=conv(3, 6, 3), a=linear(6, 4), b=linear(4, 6), last=conv(6, 2, 1)),
        [IMAGE],
    ),
    "channel shuffle and grouped convolution": (
        Micro(shuffle, one=conv(3, 12, 1), two=conv(12, 12, 3, groups=3), last=conv(12, 2, 1)),
        [IMAGE],
    ),
    "tied autoencoder": (Micro(autoencoder, w=(6, 4), b=(6,), c=(4,)), [X]),
    "bilinear": (
        Micro(bilinear, p=linear(4, 5), w=(5, 3, 2), v=(6, 3), q=linear(4, 3)), [(2, 4), (2, 4)],
    ),
    "gated recurrence by hand": (Micro(gru, x=linear(4, 18), h=linear(6, 18), out=linear(6, 3)), [X]),
    "dense connections": (
        Micro(dense_net, a=linear(4, 3), b=linear(7, 2), c=linear(9, 5), mid=linear(14, 6),
              out=linear(6, 3)), [X],
    ),
    "outer product": (Micro(outer, p=linear(4, 3), q=linear(4, 5), out=linear(15, 2)), [(2, 4)]),
    "self-gram attention": (Micro(gram, a=linear(4, 6), out=linear(6, 3)), [X]),
    "gain less one": (
        Micro(one_plus, g=(4,), a=linear(4, 6), b=linear(6, 4), out=linear(4, 3)), [X],
    ),
    "length one": (Micro(normalized, a=linear(4, 6), out=linear(6, 3)), [X]),
    "linear biases of heads": (Micro(alibi, qkv=linear(4, 36), out=linear(12, 3)), [X]),
    "grouped queries by flag": (
        Micro(grouped, q=linear(4, 12), kv=linear(4, 12), out=linear(12, 3)), [X],
    ),
    "interleaved rotary": (Micro(interleaved, a=linear(4, 8), w=(2,), out=linear(8, 3)), [X]),
    "slices of a parameter": (Micro(slices, w=(8, 4), b=(8,), out=linear(4, 3)), [X]),
}  # fmt: skip


def through(f, width=6, out=6):
    return Micro(lambda m, x: m.b(f(m.a(x)).float()), a=linear(4, width), b=linear(out, 3))


REFUSED = {
    "softmax": (through(lambda h: h.softmax(-1)), "would take weight"),
    "largest": (through(lambda h: h.argmax(-1, keepdim=True), out=1), "takes the argmax over it"),
    "variance": (through(lambda h: h - h.var(-1, keepdim=True)), "divides by their number less"),
    "cumulative sum": (through(lambda h: h.cumsum(-1)), "depends on the order"),
    "flip": (through(lambda h: h.flip(-1)), "moves coordinates by position"),
    "top-k": (through(lambda h: h.topk(3, -1).values, out=3), "depends on the order"),
    "incommensurate reshape": (
        Micro(
            lambda m, x: m.b(m.a(x).unflatten(-1, (4, 6)).flatten(2).reshape(2, 5, 6, 4).mT.flatten(2)),
            a=linear(4, 24), b=linear(24, 3),
        ),
        "",
    ),
    "hidden is an output": (
        Micro(lambda m, x: (m.a(x), m.b(m.a(x))), a=linear(4, 6), b=linear(6, 3)), "",
    ),
}  # fmt: skip


def arguments(shapes):
    torch.manual_seed(1)
    return [torch.randn(s) for s in shapes]


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    module, shapes = EXACT[name]
    got = grow_module(traced(module, arguments(shapes)))
    assert got.accepted
    assert not [why for why in got.refused if why.startswith("graph")], got.refused


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    module, reason = REFUSED[name]
    got = grow_module(traced(module, arguments([X])))
    if name != "incommensurate reshape":
        assert not got.accepted
    assert any(reason in why for why in got.pinned) or not reason
