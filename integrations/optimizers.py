"""Optimizer and scheduler of the module that took the place of a smaller one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import meristem
import meristem.training


def carried(
    grown: meristem.Model,
    module: nn.Module,
    larger: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
    new: str,
) -> tuple[torch.optim.Optimizer | None, Any]:
    """(optimizer, scheduler) over ``larger``, in the state in which the old ones are."""
    if optimizer is None:
        return None, None
    names = {id(p): n for n, p in module.named_parameters(remove_duplicate=False)}
    own = dict(larger.named_parameters(remove_duplicate=False))
    groups, seen = [], set()
    for group in optimizer.param_groups:
        found = []
        for p in group["params"]:
            if names[id(p)] in own and id(own[names[id(p)]]) not in seen:
                found.append(own[names[id(p)]])
                seen.add(id(found[-1]))
        groups.append({**group, "params": found})
    rest = []
    for p in own.values():
        if id(p) not in seen:
            rest.append(p)
            seen.add(id(p))
    groups[-1]["params"] += rest
    out = type(optimizer)(groups)
    for g, o in zip(out.param_groups, optimizer.param_groups, strict=True):
        g.update({k: v for k, v in o.items() if k != "params"})
    if scheduler is not None:
        state = scheduler.state_dict()
        import copy
        s2 = copy.copy(scheduler)
        s2.optimizer = out
        s2.load_state_dict(state)
        scheduler = s2
    return out, scheduler


__all__ = ["carried"]
