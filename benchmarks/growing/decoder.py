"""The model that is trained: a decoder over bytes with RMS norms, rotary positions and a gated MLP."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BYTES = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; a head has always ``head`` coordinates, as grown models have."""

    hidden: int
    heads: int
    mlp: int
    layers: int
    context: int
    head: int

    def narrow(self) -> Shape:
        """Half of every width."""
        return replace(self, hidden=self.hidden // 2, heads=self.heads // 2, mlp=self.mlp // 2)

    def shallow(self, layers: int) -> Shape:
        return replace(self, layers=layers)


class Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.head, inner = s.head, s.heads * s.head
        self.attention_norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.mlp_norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.query = nn.Linear(s.hidden, inner, bias=False)
        self.key = nn.Linear(s.hidden, inner, bias=False)
        self.value = nn.Linear(s.hidden, inner, bias=False)
        self.out = nn.Linear(inner, s.hidden, bias=False)
        self.gate = nn.Linear(s.hidden, s.mlp, bias=False)
        self.up = nn.Linear(s.hidden, s.mlp, bias=False)
        self.down = nn.Linear(s.mlp, s.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _ = x.shape
        y = self.attention_norm(x)
        q, k, v = (
            m(y).view(batch, time, -1, self.head).transpose(1, 2)
            for m in (self.query, self.key, self.value)
        )
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, -1))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Bytes [batch, time] to logits of the next byte [batch, time, 256]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, s.hidden)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, eps=1e-6)
        self.unembed = nn.Linear(s.hidden, BYTES, bias=False)
        rates = 10_000.0 ** -(torch.arange(0, s.head, 2) / s.head)
        angles = torch.arange(s.context)[:, None] * rates[None, :]
        angles = torch.cat([angles, angles], -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
        nn.init.normal_(self.embed.weight, std=0.1)
        for block in self.blocks:
            for last in (block.out, block.down):
                with torch.no_grad():
                    last.weight.mul_((2 * s.layers) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        cos, sin = self.cos[:time], self.sin[:time]
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.unembed(self.norm(x))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; ``x``: [batch, heads, time, head]."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
