"""One growth of a run: module, optimizer and scheduler together, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import meristem
from meristem.integrations.costs import cost
from meristem.integrations.history import History, mark
from meristem.integrations.optimizers import carried
from meristem.integrations.rebuilding import Rebuild, rebuilt
from meristem.training import checkpoint, supplies

Example = tuple[tuple[Any, ...], dict[str, Any]]
Sizes = Mapping[str, int | str]


@dataclass(frozen=True)
class Grown:
    """What takes the place of what a run had. ``model`` is what ``meristem.grow`` gave."""

    module: nn.Module
    optimizer: torch.optim.Optimizer | None
    scheduler: Any
    history: History
    model: meristem.Model | None = None


@dataclass(frozen=True)
class Way:
    """How a run grows, whatever the sizes.

    ``rebuild`` makes the larger module of the user's own class from the module that grows and the plan;
    without it the larger module is the program. ``new`` is what fresh entries of the optimizer's state
    hold. ``loss`` and ``models`` go to the growths whose methods use them, and to no others.
    """

    rebuild: Rebuild | None = None
    new: str = "mean"
    loss: Callable[[Any], Any] | None = None
    models: tuple[Any, ...] = ()

    def supplies(self, text: str) -> dict[str, Any]:
        """Of ``loss`` and ``models`` what the method that ``text`` names uses, as arguments of growth."""
        return {name: getattr(self, name) for name in supplies(text)}


@checkpoint.random_kept()
def grow(
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
    history: History,
    sizes: Sizes | meristem.Plan,
    example: Example,
    way: Way,
    *,
    step: int = 0,
    counts: bool = True,
    **options: Any,
) -> Grown:
    """Trace the live module, grow it, and carry what trains it.

    The arguments are left as they are: if anything is refused, the run has what it had. The random numbers
    of the run go on as if nothing had happened. With ``counts`` the log's entry has the FLOPs of a step on
    the example before and after. Raises what ``meristem.grow`` raises, and CarrierError where the
    optimizer is not of this module.
    """
    began = time.perf_counter()
    refuse_optimizer(module, optimizer)
    if way.rebuild is not None and not isinstance(sizes, meristem.Plan):
        options = {"compensate": "weights", **options}
    training = module.training
    named = sizes.method if isinstance(sizes, meristem.Plan) else "preserve"
    options = {**way.supplies(options.get("method", named)), **options}
    args, kwargs = at_home(example, module)
    model = meristem.trace(module, args, kwargs)
    grown = meristem.grow(model, sizes, **options)
    plan = grown.plan
    assert plan is not None
    larger = grown.module()
    if way.rebuild is not None:
        larger = rebuilt(way.rebuild, module, larger, plan, (args, kwargs))
    larger.train(training)
    larger_optimizer, larger_scheduler = carried(grown, larger, optimizer, scheduler, way.new)
    costs = [cost(m, (args, kwargs)) for m in (module, larger)] if counts else []
    entry = {
        "step": step,
        "method": plan.method,
        "changes": {c.name: [c.before, c.after] for c in plan.changes},
        "parameters": [count(module), count(larger)],
        "flops": [flops for flops, _ in costs],
        "uncounted": sorted({name for _, names in costs for name in names}),
        "approximate": bool(plan.approximate),
        "seconds": time.perf_counter() - began,
    }
    return Grown(
        larger,
        larger_optimizer,
        larger_scheduler,
        history.followed_by(plan, way.new, larger, entry),
        grown,
    )


def replay(
    history: History,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    scheduler: Any,
    example: Example,
    way: Way,
) -> Grown:
    """The growths of ``history`` on the small model of a new process: sizes, names, groups of parameters.

    Values are then loaded from the checkpoint. Raises CarrierError where the module is not the one that the
    run started with, or another program comes out.
    """
    history.refuse_other(module)
    grown = Grown(module, optimizer, scheduler, History.of(module))
    for at, (text, new) in enumerate(zip(history.plans, history.new, strict=True)):
        plan = meristem.Plan.from_json(text)
        how = replace(way, new=new, loss=None)  # the plan holds what it gave
        now = (grown.module, grown.optimizer, grown.scheduler)
        grown = grow(*now, grown.history, plan, example, how, counts=False)
        then, now = history.programs[at], mark(grown.module)
        if then != now and then.rpartition(" ")[0] == now.rpartition(" ")[0]:
            raise meristem.CarrierError(
                f"growth {at + 1} gives another program than the one that was trained; construct the "
                "model, and give rebuild=, as the run did"
            )
    return replace(grown, history=history)


def refuse_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Raises CarrierError where the optimizer has parameters that are not the module's."""
    if optimizer is None:
        return
    own = {id(p) for p in module.parameters()}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    odd = [p for p in given if id(p) not in own]
    if odd:
        raise meristem.CarrierError(
            f"the optimizer is not of this module: {len(odd)} of its {len(given)} parameters are not the "
            f"module's, the first of shape {tuple(odd[0].shape)}; give the optimizer that trains it"
        )


def refuse_example(example: Any) -> Example:
    """(args, kwargs) of one call; MeristemError where it is none, or of a batch of one."""
    call = _call(example)
    refuse_batch_of_one(call, "example= is")
    return call


def refuse_batch_of_one(call: Any, words: str) -> None:
    """Raises MeristemError where every tensor has a first axis of 1; ``words`` say what they are."""
    tensors = [t for t in pytree.tree_leaves(call) if isinstance(t, torch.Tensor) and t.dim()]
    if tensors and all(t.shape[0] == 1 for t in tensors):
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise meristem.MeristemError(
            f"{words} a batch of one: its tensors have the shapes {shapes}, and in a trace an axis "
            "of 1 cannot be told from one that is broadcast; give a batch of at least 2"
        )


def _call(example: Any) -> Example:
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    two = isinstance(example, (tuple, list)) and len(example) == 2
    if two and isinstance(example[0], (tuple, list)) and isinstance(example[1], Mapping):
        return tuple(example[0]), dict(example[1])
    if isinstance(example, tuple) and example:
        return example, {}
    raise meristem.MeristemError(
        f"example={type(example).__name__} is no call of the module; give a tensor, a tuple of arguments, "
        "a dict of keyword arguments, or both as (args, kwargs), of a batch of at least 2"
    )


def at_home(example: Example, module: nn.Module) -> Example:
    """The example on the module's device."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().to(device), example)
    return args, kwargs


def count(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


__all__ = ["Example", "Grown", "Way", "count", "grow", "refuse_example", "replay"]
