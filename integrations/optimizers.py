"""Optimizer and scheduler of the module that took the place of a smaller one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

import meristem


def carried(
    grown: meristem.Model,
    larger: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
    new: str,
) -> tuple[torch.optim.Optimizer | None, Any]:
    """(optimizer, scheduler) over ``larger``, in the state in which the old ones are."""
    if optimizer is None:
        return None, None
    made = grown.optimizer(optimizer, new=new, module=larger)
    if scheduler is None:
        return made, None
    out = copy.copy(scheduler)
    out.optimizer = made
    return made, out


__all__ = ["carried"]
