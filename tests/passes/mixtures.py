"""Mixtures of experts written by hand: the forms of gates that models use, and of evaluating experts."""

import torch
from torch import nn

GATES = (
    "softmax_topk",
    "softmax_topk_normed",
    "topk_softmax",
    "sigmoid_topk",
    "sigmoid_topk_normed",
    "biased",
)
WAYS = ("chosen", "dense")


class Mixture(nn.Module):
    """``gate`` is how weights come from scores; ``way`` evaluates the chosen experts, or all."""

    def __init__(self, gate, way, n=6, units=8, experts=4, top=2):
        super().__init__()
        self.gate, self.way, self.top = gate, way, top
        self.router = nn.Parameter(torch.randn(experts, n))
        self.bias = nn.Parameter(0.1 * torch.randn(experts))
        self.up = nn.Parameter(torch.randn(experts, units, n) / 2)
        self.down = nn.Parameter(torch.randn(experts, n, units) / 2)

    def weights(self, x):
        """Weights and places of the chosen."""
        scores = x @ self.router.T
        if self.gate == "topk_softmax":
            best, places = scores.topk(self.top, -1)
            return best.softmax(-1), places
        scores = scores.softmax(-1) if "softmax" in self.gate else scores.sigmoid()
        if self.gate == "biased":  # a bias that chooses and does not weigh
            places = (scores + self.bias).topk(self.top, -1)[1]
            best = scores.gather(-1, places)
        else:
            best, places = scores.topk(self.top, -1)
        return best / best.sum(-1, keepdim=True) if "normed" in self.gate else best, places

    def forward(self, x):
        best, places = self.weights(x)
        if self.way == "chosen":
            h = torch.einsum("tkfn,tn->tkf", self.up[places], x).relu()
            y = torch.einsum("tknf,tkf->tkn", self.down[places], h)
            return (y * best[..., None]).sum(1)
        gates = torch.zeros(x.shape[0], self.router.shape[0]).scatter(-1, places, best)
        h = torch.einsum("efn,tn->tef", self.up, x).relu()
        return torch.einsum("tef,enf->tn", h * gates[..., None], self.down)


class Net(nn.Module):
    """A mixture on a residual stream."""

    def __init__(self, mixture):
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, 6), nn.LayerNorm(6)
        self.moe, self.head = mixture, nn.Linear(6, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + self.moe(self.norm(x)))


def net(gate="softmax_topk_normed", way="chosen"):
    torch.manual_seed(0)
    return Net(Mixture(gate, way)).eval()


TOKENS = torch.arange(9) % 11
