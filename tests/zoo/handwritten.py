"""Models as people write them: nn.TransformerEncoder and a GPT of one page."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .entry import (
    JOINT_HEADS,
    POSITIONS,
    SPLIT_HEADS,
    VOCABULARY,
    Entry,
    Inputs,
    free,
    kinds,
    token_ids,
)

WIDTH, HEADS, MLP, LAYERS = 24, 4, 40, 2


class TextEncoder(nn.Module):
    """Embedding, learned positions, nn.TransformerEncoder, head."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(POSITIONS, WIDTH))
        self.encoder = _torch_encoder(norm_first)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens) + self.positions[: tokens.shape[1]]
        return self.head(self.encoder(hidden))


def _torch_encoder(norm_first: bool, batch_first: bool = True) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        WIDTH,
        HEADS,
        MLP,
        dropout=0.1,
        activation="gelu",
        batch_first=batch_first,
        norm_first=norm_first,
    )
    norm = nn.LayerNorm(WIDTH) if norm_first else None
    return nn.TransformerEncoder(layer, LAYERS, norm=norm, enable_nested_tensor=False)


class CausalSelfAttention(nn.Module):
    mask: torch.Tensor

    def __init__(self, manual: bool) -> None:
        super().__init__()
        self.manual = manual
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = nn.Linear(WIDTH, WIDTH)
        self.attn_dropout = nn.Dropout(0.1)
        self.resid_dropout = nn.Dropout(0.1)
        if manual:
            mask = torch.tril(torch.ones(POSITIONS, POSITIONS)).view(1, 1, POSITIONS, POSITIONS)
            self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        q, k, v = self.c_attn(x).split(WIDTH, dim=2)
        k = k.view(batch, time, HEADS, width // HEADS).transpose(1, 2)
        q = q.view(batch, time, HEADS, width // HEADS).transpose(1, 2)
        v = v.view(batch, time, HEADS, width // HEADS).transpose(1, 2)
        if self.manual:
            scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            scores = scores.masked_fill(self.mask[:, :, :time, :time] == 0, float("-inf"))
            y = self.attn_dropout(F.softmax(scores, dim=-1)) @ v
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, dropout_p=0.1 if self.training else 0, is_causal=True
            )
        y = y.transpose(1, 2).contiguous().view(batch, time, width)
        return self.resid_dropout(self.c_proj(y))


class Block(nn.Module):
    def __init__(self, manual: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = CausalSelfAttention(manual)
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.c_fc = nn.Linear(WIDTH, MLP)
        self.c_proj = nn.Linear(MLP, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.dropout(self.c_proj(F.gelu(self.c_fc(self.ln_2(x)))))


class NanoGPT(nn.Module):
    """After Karpathy's nanoGPT: learned positions, one fused projection, tied head."""

    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        self.wpe = nn.Embedding(POSITIONS, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(Block(manual) for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(idx.shape[1], dtype=torch.long, device=idx.device)
        x = self.drop(self.wte(idx) + self.wpe(positions))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def _tokens(batch: int, seq: int, seed: int = 0) -> Inputs:
    return (token_ids(batch, seq, seed),), {}


def _sequence_first(batch: int, seq: int, seed: int = 0) -> Inputs:
    return (torch.randn(seq, batch, WIDTH, generator=torch.Generator().manual_seed(seed)),), {}


def _dynamic() -> tuple[Any, ...]:
    return (free(2),)


def _entry(
    name: str, model: Any, have: frozenset[str], inputs: Any = _tokens, exposed: str = ""
) -> Entry:
    family = "nanogpt" if name.startswith("nanogpt") else "torch_encoder"
    return Entry(name, family, lambda onnx=False: model(), inputs, _dynamic, have, kinds(exposed))


ENTRIES = [
    _entry("torch_encoder_prenorm", lambda: TextEncoder(True), JOINT_HEADS),
    _entry("torch_encoder_postnorm", lambda: TextEncoder(False), JOINT_HEADS),
    _entry(
        "torch_encoder_bare",
        lambda: _torch_encoder(False, False),
        JOINT_HEADS,
        _sequence_first,
        "hidden",
    ),
    _entry("nanogpt", NanoGPT, SPLIT_HEADS),
    _entry("nanogpt_manual", lambda: NanoGPT(manual=True), SPLIT_HEADS),
]
