"""Optimizer and scheduler of the module that took the place of a smaller one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import meristem
from meristem.training import carry_scheduler


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
    return made, None if scheduler is None else carry_scheduler(scheduler, made)


__all__ = ["carried"]
