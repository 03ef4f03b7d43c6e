"""The model that the demonstration trains: a small decoder over bytes, written by hand.

Pre-norm RMS norms, rotary positions, grouped queries, a gated MLP, tied embeddings and dropout:
today's language models on one page. The library knows nothing of this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTES = 256

Turn = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a decoder; queries are grouped in ``heads // kv_heads``."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    qk_dim: int = 16
    value_dim: int = 16
    mlp: int = 160
    dropout: float = 0.05


class Rotary(nn.Module):
    """Rotation of coordinate pairs (half-split) by position times a table of frequencies."""

    frequencies: Tensor

    def __init__(self, size: int, base: float = 10_000.0) -> None:
        super().__init__()
        steps = torch.arange(0, size, 2, dtype=torch.float32) / size
        self.register_buffer("frequencies", base**-steps)

    def forward(self, time: int) -> Turn:
        """Cosines and sines, each [time, size], that every block shares."""
        steps = torch.arange(time, dtype=torch.float32, device=self.frequencies.device)
        angles = steps[:, None] * self.frequencies[None, :]
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """``x``: [batch, heads, time, size]."""
    cos, sin = turn
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Attention(nn.Module):
    """Causal attention; every key-value head serves a group of query heads."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.query = nn.Linear(s.hidden, s.heads * s.qk_dim, bias=False)
        self.key = nn.Linear(s.hidden, s.kv_heads * s.qk_dim, bias=False)
        self.value = nn.Linear(s.hidden, s.kv_heads * s.value_dim, bias=False)
        self.out = nn.Linear(s.heads * s.value_dim, s.hidden, bias=False)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        batch, time, _ = x.shape
        s = self.s
        q = self.query(x).view(batch, time, s.heads, s.qk_dim).transpose(1, 2)
        k = self.key(x).view(batch, time, s.kv_heads, s.qk_dim).transpose(1, 2)
        v = self.value(x).view(batch, time, s.kv_heads, s.value_dim).transpose(1, 2)
        q, k = rotate(q, turn), rotate(k, turn)
        k, v = self._serve_group(k), self._serve_group(v)
        p = s.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time, s.heads * s.value_dim))

    def _serve_group(self, x: Tensor) -> Tensor:
        """[batch, kv heads, time, size] -> [batch, heads, time, size]."""
        batch, kv, time, size = x.shape
        group = self.s.heads // self.s.kv_heads
        return (
            x[:, :, None].expand(batch, kv, group, time, size).reshape(-1, kv * group, time, size)
        )


class GatedMLP(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.gate = nn.Linear(s.hidden, s.mlp, bias=False)
        self.up = nn.Linear(s.hidden, s.mlp, bias=False)
        self.down = nn.Linear(s.mlp, s.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.attention = Attention(s)
        self.mlp_norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.mlp = GatedMLP(s)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, turn: Turn) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), turn))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Decoder(nn.Module):
    """Bytes [batch, time] to logits of the next byte [batch, time, 256]."""

    def __init__(self, s: Sizes | None = None) -> None:
        super().__init__()
        s = s or Sizes()
        self.embed = nn.Embedding(BYTES, s.hidden)
        self.rotary = Rotary(s.qk_dim)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.head = nn.Linear(s.hidden, BYTES, bias=False)
        self.head.weight = self.embed.weight
        self.apply(_initialise)
        for block in self.blocks:
            for last in (block.attention.out, block.mlp.down):
                nn.init.normal_(last.weight, std=0.02 / (2 * s.layers) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        turn = self.rotary(tokens.shape[1])
        for block in self.blocks:
            x = block(x, turn)
        return self.head(self.norm(x))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.04)
