"""Random small torch modules: blocks by name, each seeded by its position."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS: dict[str, Callable[[int], nn.Module]] = {}


def block(f: type[nn.Module]) -> type[nn.Module]:
    """x[batch, time, width] -> the same shape."""
    BLOCKS[f.__name__] = f
    return f


@block
class Mlp(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(n), nn.Linear(n, 7), nn.Linear(7, n)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


@block
class Gated(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm, self.up = nn.RMSNorm(n, eps=0.1), nn.Linear(n, 10, bias=False)
        self.down = nn.Linear(5, n, bias=False)

    def forward(self, x):
        p, q = self.up(self.norm(x)).chunk(2, -1)
        return x + self.down(F.silu(p) * q)


@block
class Spelled(nn.Module):
    """A norm in parts, its gain stored less one."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain, self.mix = nn.Parameter(torch.randn(n) * 0.1), nn.Linear(n, n)

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1) * (1 + self.gain)
        return x + self.mix(y).tanh()


@block
class Attention(nn.Module):
    """Grouped queries, half-rotated, causal."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(n, 16), nn.Linear(n, 8), nn.Linear(n, 6)
        self.o, self.norm = nn.Linear(12, n), nn.LayerNorm(n)
        self.register_buffer("inverse", 10.0 ** -torch.arange(2) / 2)

    def turn(self, x):
        angle = torch.arange(x.shape[-2])[:, None] * self.inverse
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        p, q = x.chunk(2, -1)
        return x * cos + torch.cat([-q, p], -1) * sin

    def forward(self, x):
        y = self.norm(x)
        q = self.turn(self.q(y).unflatten(-1, (4, 4)).transpose(1, 2))
        k = self.turn(self.k(y).unflatten(-1, (2, 4)).transpose(1, 2)).repeat_interleave(2, 1)
        v = self.v(y).unflatten(-1, (2, 3)).transpose(1, 2).repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.o(y.transpose(1, 2).flatten(2))


@block
class Fused(nn.Module):
    """One projection for three, scores and softmax by hand, pairs interleaved."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(n, 24), nn.Linear(8, n)
        self.turns = nn.Parameter(torch.randn(2))

    def turn(self, x):
        angle = torch.arange(x.shape[-2])[:, None] * self.turns
        even, odd = x[..., ::2], x[..., 1::2]
        pair = [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()]
        return torch.stack(pair, -1).flatten(-2)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.turn(q) @ self.turn(k).mT / 2.0
        y = scores.softmax(-1) @ v
        return F.layer_norm(x + self.o(y.transpose(1, 2).reshape(*x.shape[:2], 8)), x.shape[-1:])


@block
class Convolved(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(n, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1, groups=2)
        self.norm, self.three = nn.BatchNorm1d(4), nn.Conv1d(4, n, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = self.norm(self.two(self.one(x.mT).relu()))
        return x + self.three(y.sigmoid()).mT


@block
class Excited(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(n, 3), nn.Linear(3, n)

    def forward(self, x):
        return x * self.b(self.a(x.mean(1, keepdim=True)).relu()).sigmoid()


@block
class Pieces(nn.Module):
    """Split, write into a view of a copy, concatenate in another order."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.mix = nn.Linear(n + 2, n)

    def forward(self, x):
        y = x.clone()
        y[..., :1] *= 2
        p, q = y.split([2, x.shape[-1] - 2], -1)
        return self.mix(torch.cat([q.relu(), p, p[..., [-1]].abs(), p[..., :1]], -1))


@block
class Quotient(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.below = nn.Linear(n, n)

    def forward(self, x):
        return x / torch.sqrt(self.below(x).square() + 0.5)


@block
class Tied(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, n) * 0.4)

    def forward(self, x):
        return F.linear(F.linear(x, self.w).relu(), self.w.T)


@block
class Bilinear(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.p, self.q = nn.Linear(n, 3), nn.Linear(n, 4)
        self.w = nn.Parameter(torch.randn(3, 4, n) * 0.3)

    def forward(self, x):
        return x + torch.einsum(
            "btij,ijn->btn", torch.einsum("bti,btj->btij", self.p(x), self.q(x)), self.w
        )


class Stack(nn.Module):
    """Embedding (or a linear layer), blocks, a norm, a head (tied where there is an embedding)."""

    def __init__(self, names: tuple[str, ...], width: int, tokens: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = tokens
        self.first = nn.Embedding(11, width) if tokens else nn.Linear(3, width)
        self.blocks = nn.ModuleList([BLOCKS[name](width) for name in names])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11)
        if tokens:
            self.head.weight = self.first.weight

    def forward(self, x):
        x = self.first(x)
        for b in self.blocks:
            x = b(x)
        return self.head(self.norm(x))

    def example(self) -> torch.Tensor:
        torch.manual_seed(5)
        return torch.randint(11, (2, 5)) if self.tokens else torch.randn(2, 5, 3)
