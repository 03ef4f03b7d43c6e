"""A small model that loops know how to call, and data for it."""

import torch
from torch import nn
from torch.nn import functional as F


class Config:
    """Sizes, as many libraries keep them."""

    def __init__(self, hidden=8, mlp=6, layers=2, act="relu"):
        self.hidden, self.mlp, self.layers, self.act = hidden, mlp, layers, act


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.LayerNorm(c.hidden)
        self.up = nn.Linear(c.hidden, c.mlp)
        self.act = getattr(F, c.act)
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(c.mlp, c.hidden)

    def forward(self, x):
        return x + self.down(self.drop(self.act(self.up(self.norm(x)))))


class Tagger(nn.Module):
    """A class for each of several tokens."""

    def __init__(self, config=None):
        super().__init__()
        self.config = c = config or Config()
        self.embed = nn.Embedding(11, c.hidden)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.hidden)
        self.head = nn.Linear(c.hidden, 11, bias=False)

    def forward(self, tokens, labels):
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        logits = self.head(self.norm(h))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def tagger(seed=0, **sizes):
    torch.manual_seed(seed)
    return Tagger(Config(**sizes))


def examples(count, seed=0):
    """Tokens, and as labels the next ones of a cycle."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, 11, (5,), generator=draw) for _ in range(count)]
    return [{"tokens": r, "labels": (3 * r + 1) % 11} for r in rows]
