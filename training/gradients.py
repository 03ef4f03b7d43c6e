"""Gradients of a loss that the caller gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.graph import Array

Loss = Callable[[nn.Module], torch.Tensor]


def gradients_of(module: nn.Module, loss: Loss) -> dict[str, Array]:
    """The gradient of every parameter by name, of one call of ``loss``; zeros where there is none.

    Raises MeristemError where the loss is not one finite number that depends on the parameters.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    for p in named.values():
        p.requires_grad_()
        p.grad = None
    value = loss(module)
    refuse_no_loss(value)
    value.backward()
    return {
        n: (torch.zeros_like(p) if p.grad is None else p.grad).double().cpu().numpy()
        for n, p in named.items()
    }


def refuse_no_loss(value: Any) -> None:
    """Raises MeristemError where ``value`` is not a finite number with a gradient."""
    if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
        raise MeristemError(
            "loss= did not return one number that depends on the module's parameters; give a function of a "
            "module, such as lambda m: torch.nn.functional.cross_entropy(m(x), y)"
        )
    if not math.isfinite(float(value.detach())):
        raise MeristemError(f"loss= returned {float(value.detach())}; give batches of numbers")


__all__ = ["Loss", "gradients_of", "refuse_no_loss"]
