"""One row for every kind of the vocabulary: a tiny torch module that lowers to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Torch = torch.Tensor
Forward = Callable[..., Torch]


@dataclass(frozen=True)
class Op:
    """``forward`` between two linear layers: x[2, 3, 5] -> h[2, 3, 6] -> y[..., n] -> z[..., 4].

    ``refuses`` is part of the planner's reason, ``pins`` of the pin's, where no axis can grow.
    """

    forward: Forward
    width: int = 6
    refuses: str = ""
    pins: str = ""
    weights: tuple[tuple[int, ...], ...] = ()


class Between(nn.Module):
    """linear -> operator -> linear, with extra parameters for the operator."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 6)
        self.extra = nn.ParameterList([torch.randn(s) * 0.5 for s in op.weights])
        self.op = op
        self.last = nn.Linear(op.width, 4)

    def forward(self, x: Torch) -> Torch:
        return self.last(self.op.forward(self.first(x), *self.extra).to(torch.float32))


def positive(f: Forward) -> Forward:
    return lambda h: f(torch.exp(h))


def integer(f: Forward) -> Forward:
    return lambda h: f((h * 9).to(torch.int64))


def chosen(test: Forward) -> Forward:
    """A comparison that picks between two branches."""
    return lambda h: torch.where(test(h, torch.zeros(())), h, h * 0.5)


TABLE: dict[str, Op] = {
    # contractions
    "contract": Op(lambda h, w: torch.einsum("bti,oi->bto", h, w), 7, weights=((7, 6),)),
    "conv": Op(
        lambda h, w: F.conv1d(h.transpose(1, 2), w, padding=1).transpose(1, 2), 7,
        weights=((7, 6, 3),),
    ),
    # elementwise
    "identity": Op(lambda h: h.clone()),
    "cast": Op(lambda h: h.to(torch.float64)),
    "neg": Op(torch.neg),
    "abs": Op(torch.abs),
    "relu": Op(F.relu),
    "leaky_relu": Op(F.leaky_relu),
    "sqrt": Op(positive(torch.sqrt)),
    "rsqrt": Op(positive(torch.rsqrt)),
    "reciprocal": Op(positive(torch.reciprocal)),
    "sign": Op(torch.sign),
    "gelu": Op(F.gelu),
    "gelu_tanh": Op(lambda h: F.gelu(h, approximate="tanh")),
    "silu": Op(F.silu),
    "mish": Op(F.mish),
    "tanh": Op(torch.tanh),
    "sin": Op(torch.sin),
    "cos": Op(torch.cos),
    "tan": Op(lambda h: torch.tan(0.3 * h)),
    "atan": Op(torch.atan),
    "erf": Op(torch.erf),
    "elu": Op(F.elu),
    "selu": Op(F.selu),
    "expm1": Op(torch.expm1),
    "log1p": Op(lambda h: torch.log1p(F.relu(h))),
    "exp": Op(torch.exp),
    "log": Op(positive(torch.log)),
    "sigmoid": Op(torch.sigmoid),
    "hard_sigmoid": Op(F.hardsigmoid),
    "hard_swish": Op(F.hardswish),
    "softplus": Op(F.softplus),
    "floor": Op(lambda h: torch.floor(3 * h)),
    "ceil": Op(lambda h: torch.ceil(3 * h)),
    "round": Op(lambda h: torch.round(3 * h)),
    "trunc": Op(lambda h: torch.trunc(3 * h)),
    "not": Op(lambda h: torch.logical_not(h > 0)),
    "isnan": Op(lambda h: h + torch.isnan(h)),
    "isinf": Op(lambda h: h + torch.isinf(h)),
    "add": Op(lambda h: h + h.abs()),
    "sub": Op(lambda h: 2 - h.abs()),
    "mul": Op(lambda h, w: h * w, weights=((6,),)),
    "div": Op(lambda h: h / (1.5 + h.abs())),
    "floor_div": Op(lambda h: torch.div(3 * h, 0.5 + h.abs(), rounding_mode="floor")),
    "mod": Op(lambda h: torch.remainder(h, 0.7)),
    "maximum": Op(lambda h: torch.maximum(h, -2 * h)),
    "minimum": Op(lambda h: torch.clamp(h, max=0.3)),
    "pow": Op(lambda h: h**2),
    "eq": Op(chosen(lambda h, z: torch.round(h) == z)),
    "ne": Op(chosen(lambda h, z: torch.round(h) != z)),
    "lt": Op(chosen(torch.lt)),
    "le": Op(chosen(torch.le)),
    "gt": Op(chosen(torch.gt)),
    "ge": Op(chosen(torch.ge)),
    "and": Op(lambda h: (h > 0) & (h < 1)),
    "or": Op(lambda h: (h > 1) | (h < 0)),
    "xor": Op(lambda h: torch.logical_xor(h > 0, h.abs() < 1)),
    "bit_and": Op(integer(lambda n: n & (n + 1))),
    "bit_or": Op(integer(lambda n: n | (n + 1))),
    "bit_not": Op(integer(lambda n: ~n)),
    "where": Op(lambda h: torch.where(h > 0.2, h, torch.zeros(()))),
    # making
    "full": Op(lambda h: h * torch.full((6,), 0.5)),
    "range": Op(lambda h: h * torch.arange(1, 7)),
    # reading
    "take": Op(lambda h: h.index_select(2, torch.tensor([0, 4, 4])), 3),
    "take_many": Op(
        lambda h, w: h + w[torch.tensor([0, 1]).reshape(2, 1), torch.tensor([2, 0, 1])],
        weights=((2, 3, 6),),
    ),
    "take_along": Op(lambda h: h.gather(1, h.argmax(1, keepdim=True))),
    "scatter": Op(lambda h: h.index_add(1, torch.tensor([2, 0, 2]), F.relu(h), alpha=2)),
    # moving
    "reshape": Op(lambda h: F.relu(h.reshape(2, 3, 2, 3).transpose(2, 3)).reshape(2, 3, 6)),
    "permute": Op(lambda h: h.permute(2, 0, 1).relu().permute(1, 2, 0)),
    "expand": Op(lambda h: h.unsqueeze(3).expand(2, 3, 6, 2).reshape(2, 3, 12), 12),
    "slice": Op(lambda h: h[..., :4] * h[..., 2:], 4),
    "concat": Op(lambda h: torch.cat([h, h.relu()], -1), 12),
    "pad": Op(lambda h: F.pad(h, (1, 2)), 9),
    "rearrange": Op(lambda h: h.flip(-1), pins="moves coordinates by position"),
    # looking along axes
    "norm": Op(lambda h: F.layer_norm(h, (6,))),
    "pool": Op(lambda h: F.avg_pool1d(h.transpose(1, 2), 3, 1, 1).transpose(1, 2)),
    "sum": Op(lambda h: h * h.sum(-1, keepdim=True)),
    "extremum": Op(lambda h: h - h.amax(-1, keepdim=True), pins="takes the max over it"),
    "softmax": Op(lambda h: h.softmax(-1), pins="would take weight"),
    "scan": Op(lambda h: h.cumsum(-1), pins="depends on the order along it"),
    "opaque": Op(lambda h: torch.fft.fft(h).real, pins="has no semantics"),
}  # fmt: skip


# Kinds that no torch operator lowers to, and who does.
ELSEWHERE: dict[str, str] = {
    "quick_gelu": "ONNX (com.microsoft)",
    "grouped_contract": "grouped matrix products, which need bfloat16 and a device of their own",
}


def example(_: Any = None) -> tuple[Torch]:
    torch.manual_seed(1)
    return (torch.randn(2, 3, 5),)
