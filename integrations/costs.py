"""FLOPs of a training step of a module that a run grows, on its example."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import meristem
from meristem.training import counted


def cost(module: nn.Module, example: Any) -> tuple[int | None, list[str]]:
    """FLOPs of forward and backward on the example, and the operators that they leave out.

    The gradient is that of the sum of all outputs, so that no loss is needed: what a loss adds to a model
    is hardly ever a product of matrices. Where nothing can be counted the FLOPs are None, and the reason
    is given in place of operators. A module is counted once: one that a growth made is not run again
    before the next growth.
    """

    def loss(m: nn.Module) -> Any:
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, example)
        leaves = pytree.tree_leaves(m(*args, **kwargs))
        sums = [t.float().mean() for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]
        if not sums:
            raise meristem.MeristemError("no output depends on a parameter that is trained")
        return torch.stack(sums).sum()

    try:
        with torch.inference_mode(False):  # Lightning validates in it
            count = counted(module, loss, key="the example of a run")
    except (meristem.MeristemError, RuntimeError) as error:
        # A step may be one that only the loop knows how to do. The run goes on, and the log says why.
        return None, [str(error).partition("\n")[0]]
    return count.flops, sorted(count.unknown)


__all__ = ["cost"]
