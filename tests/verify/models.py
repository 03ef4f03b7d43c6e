"""Small models to verify, from both carriers, and ways to spoil them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper, save
from torch import nn

import meristem
from tests.zoo import build


class Mixer(nn.Module):
    """A tiny model with an embedding, a norm, a residual branch and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens + 1)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x.masked_fill((mask == 0).unsqueeze(-1), 0.0))


def mixer() -> meristem.Model:
    """``Mixer`` traced with dynamic batch and length."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (2, 7))
    return meristem.trace(Mixer(), (tokens, torch.ones(2, 7, dtype=torch.long)))


@cache
def traced(name: str) -> meristem.Model:
    """A model of the zoo; nobody changes it."""
    module, args, kwargs = build(name)
    return meristem.trace(module, args, kwargs)


def spoil(grown: Any, name: str, by: float = 1e-3, at: int = 0) -> None:
    """Change one entry of one stored tensor of a torch model."""
    with torch.no_grad():
        grown.carrier.tensors[name].view(-1)[at] += by


def tensors(grown: Any) -> dict[str, torch.Tensor]:
    return dict(grown.carrier.tensors)


def onnx_file(path: Path, *, seed: int = 0) -> Path:
    """norm(x) -> relu MLP -> head, written by hand, batch dynamic."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    weights = [
        weight("stem.weight", 6, 8), weight("norm.weight", 8), weight("up.weight", 8, 12),
        weight("up.bias", 12), weight("down.weight", 12, 8), weight("head.weight", 8, 5),
    ]  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "stem.weight"], ["s"]),
        helper.make_node("LayerNormalization", ["s", "norm.weight"], ["n"], axis=-1, epsilon=1e-3),
        helper.make_node("MatMul", ["n", "up.weight"], ["u0"]),
        helper.make_node("Add", ["u0", "up.bias"], ["u1"]),
        helper.make_node("Relu", ["u1"], ["u"]),
        helper.make_node("MatMul", ["u", "down.weight"], ["d"]),
        helper.make_node("Add", ["s", "d"], ["r"]),
        helper.make_node("MatMul", ["r", "head.weight"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(model, path)
    return path
