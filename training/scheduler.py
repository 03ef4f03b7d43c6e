"""Learning-rate schedulers through a growth: the same schedule for another optimizer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from meristem.rewrite.errors import MeristemError

# A group that was split off knows the number of the one that it comes from.
GROWN_FROM = "grown_from"

# What schedulers of torch keep for each group.
_BY_GROUP = (
    "base_lrs", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums", "_last_lr",
)  # fmt: skip


def carry_scheduler(old: Any, optimizer: Optimizer) -> Any:
    """A scheduler like ``old``, at the same step, for ``optimizer``; ``old`` does not change.

    Groups that were split off (``separate``) take what the scheduler keeps for the group that they come
    from. Schedulers inside of others come along. Functions are shared with ``old``.

    Raises MeristemError where the optimizer has other groups than ``old`` schedules.
    """
    before = getattr(old, "optimizer", None)
    if not isinstance(before, Optimizer):
        raise MeristemError(
            f"{type(old).__name__} schedules no optimizer; give a scheduler of "
            "torch.optim.lr_scheduler, or one that keeps .optimizer as they do"
        )
    groups = optimizer.param_groups
    own = [g for g in groups if GROWN_FROM not in g]
    if len(own) != sum(GROWN_FROM not in g for g in before.param_groups):
        raise MeristemError(
            f"the optimizer has {len(own)} groups, and the scheduler's has {len(before.param_groups)}; "
            "give the optimizer that grown.optimizer made of it"
        )
    _count_steps(before, optimizer)
    out = deepcopy(old, {id(before): optimizer})
    _fit(out, len(own), groups)
    return out


def _count_steps(before: Optimizer, after: Optimizer) -> None:
    """Schedulers watch whether the optimizer has stepped, through what their constructor does to it."""
    rates = [float(g["lr"]) for g in after.param_groups]
    had = ["initial_lr" in g for g in after.param_groups]
    LambdaLR(after, lambda _: 1.0)
    for group, rate, first in zip(after.param_groups, rates, had, strict=True):
        set_rate(group, rate)
        if not first:
            del group["initial_lr"]
    after._opt_called = getattr(before, "_opt_called", False)  # type: ignore[attr-defined]


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a group's learning rate; one that is a tensor stays the same tensor."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _fit(scheduler: Any, count: int, groups: list[dict[str, Any]]) -> None:
    """What is kept for each of the first ``count`` groups, for all that there are now."""
    sources = [g.get(GROWN_FROM, i) for i, g in enumerate(groups)]
    for name in _BY_GROUP:
        values = getattr(scheduler, name, None)
        if isinstance(values, list) and len(values) >= count:
            values = [values[i] for i in sources]
            if name == "base_lrs":  # a group may have been split off with another rate
                rates = [g.get("initial_lr") if GROWN_FROM in g else None for g in groups]
                values = [v if r is None else r for v, r in zip(values, rates, strict=True)]
            setattr(scheduler, name, values)
    if hasattr(scheduler, "keep_groups"):  # a shape around a scheduler, for some groups
        scheduler.keep_groups(len(groups))
    inner = getattr(scheduler, "scheduler", None)
    for other in (*getattr(scheduler, "_schedulers", ()), *([inner] if inner else [])):
        _fit(other, count, groups)


__all__ = ["GROWN_FROM", "carry_scheduler", "set_rate"]
