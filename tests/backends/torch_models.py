"""What the tests of the torch backends share: traces of the zoo, growth of all that is free."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from meristem.backends.program import apply_script
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.frontends.torch_view import view_torch
from meristem.frontends.trace import trace_module
from meristem.rewrite.axes import atoms_of
from meristem.rewrite.edits import EditScript
from meristem.rewrite.equations import Equations
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.zoo import build, dynamic_shapes

MODELS = (
    "gpt2",
    "bert",
    "llama",
    "t5",
    "resnet",
    "timm_vit",
    "torch_encoder_prenorm",
    "whisper",
)


@cache
def traced(name: str) -> TorchCarrier:
    """One trace a process, with the zoo's dynamic shapes; nobody may change it."""
    module, args, kwargs = build(name)
    return trace_module(module, args, kwargs, dynamic_shapes(name))


@cache
def grown(name: str) -> tuple[TorchCarrier, EditScript]:
    """Every free atom grown by half."""
    carrier = traced(name)
    graph = view_torch(carrier)
    equations = Equations(graph).solve()
    atoms = {a for w in graph.weights for t in equations.of(w) for a in atoms_of(t)}
    free = [a for a in atoms if a.size > 1 and not a.pins]
    script = edit_script(solve(equations, {a: a.size + max(1, a.size // 2) for a in free}))
    return apply_script(carrier, script), script


def tensors(x: Any) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves(x) if isinstance(t, torch.Tensor)]


def run(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Tensors of the result, without gradients."""
    with torch.no_grad():
        return tensors(module(*args, **kwargs))


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Bit for bit."""
    return len(left) == len(right) > 0 and all(map(torch.equal, left, right))


def close(left: list[torch.Tensor], right: list[torch.Tensor], tolerance: float = 1e-4) -> None:
    """Up to rounding, relative to the largest entry."""
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        error = (a.float() - b.float()).abs().max()
        assert error <= tolerance * b.float().abs().max(), f"{error:.2e}"
