"""An optimizer over a grown module that goes on where the old one stopped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from meristem.rewrite.errors import MeristemError
from meristem.training.carry import Carry, Group, State, unshared
from meristem.training.lineage import Lineage
from meristem.training.states import rules_of

# What torch keeps in every optimizer; the rest is of its class. Schedulers and scalers wrap ``step``.
_COMMON = frozenset(vars(Optimizer([torch.zeros(1)], {}))) | {"step", "_opt_called"}
_HOOKS = tuple(n for n in _COMMON if n.endswith("_hooks"))


def carry_optimizer(
    old: Optimizer,
    names: Mapping[int, str],
    lineage: Lineage,
    module: nn.Module,
    new: str = "mean",
) -> Optimizer:
    """An optimizer of the same class over the parameters of the grown ``module``.

    Groups and their hyper-parameters stay; a weight of a new layer joins the group of the one that it is
    like. State follows each weight's recipe (``rewrite.moments``), step counts stay, as do hooks and the
    attributes of the class. ``names`` are those of the old parameters in the source model by ``id``.
    Parameters that ``old`` does not hold (frozen ones, or those of another optimizer) stay out. Nothing of
    ``old`` changes.

    Raises MeristemError where a parameter of ``old`` is none of the source's, the state of a weight has
    another shape or is not known, an attribute holds parameters, or the module is not of this growth.
    """
    kind = type(old)
    rules = rules_of(kind)
    groups, states, shapes = [], {}, {}
    for number, group in enumerate(old.param_groups):
        known = [_known(p, names, lineage, number) for p in group["params"]]
        groups.append(
            {k: unshared(v) for k, v in group.items() if k != "params"} | {"params": known}
        )
        for name, p in zip(known, group["params"], strict=True):
            shapes[name] = tuple(p.shape)
            if old.state.get(p):
                states[name] = dict(old.state[p])
    own = dict(module.named_parameters(remove_duplicate=False))
    carry = _carry(
        lineage, {n: (id(p), tuple(p.shape)) for n, p in own.items()}, shapes, rules, new
    )
    carry.check(states)
    placed = carry.groups(groups)
    made = kind.__new__(kind)
    made.__setstate__(
        {
            **_attributes(old),
            "defaults": {k: unshared(v) for k, v in old.defaults.items()},
            "state": defaultdict(
                dict, {k: deepcopy(v) for k, v in old.state.items() if isinstance(k, str)}
            ),
            "param_groups": [{**g, "params": [own[n] for n in g["params"]]} for g in placed],
        }
    )
    name_parameters(made, module)
    for name, state in carry.states(states).items():
        made.state[own[name]] = {k: _laid_out(v, own[name]) for k, v in state.items()}
    if isinstance(old, torch.optim.Adagrad):  # makes its state before the first step
        for group in made.param_groups:
            for p in (p for p in group["params"] if p not in made.state):
                start = torch.full_like(p, group["initial_accumulator_value"])
                made.state[p] = {"step": torch.tensor(0.0), "sum": start.detach()}
    return made


def carry_state_dict(
    state: Mapping[str, Any],
    kind: type[Optimizer],
    lineage: Lineage,
    grown: Mapping[str, tuple[Any, tuple[int, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    new: str = "mean",
) -> dict[str, Any]:
    """The same for an optimizer's state by names, as ``torch.distributed.checkpoint.state_dict`` gives it
    with ``full_state_dict=True``: ``state`` maps names to what is kept, ``param_groups`` hold names.

    ``grown`` are the names of the grown weights with (a key that tied ones share, their shape), ``shapes``
    those of the source by the names of their recipes. Raises MeristemError as ``carry_optimizer`` does.
    """

    def known(name: str) -> str:
        if name not in lineage.names:
            raise MeristemError(
                f"the optimizer's state has {name}, which the source model does not; the state does not "
                "belong to this model",
                weight=name,
            )
        return lineage.names[name]

    groups: list[Group] = [
        {**g, "params": [known(n) for n in g["params"]]} for g in state["param_groups"]
    ]
    states: dict[str, State] = {known(n): dict(s) for n, s in state["state"].items()}
    carry = _carry(lineage, grown, shapes, rules_of(kind), new)
    carry.check(states)
    return {"state": carry.states(states), "param_groups": carry.groups(groups)}


def _carry(
    lineage: Lineage,
    grown: Mapping[str, tuple[Any, tuple[int, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    rules: dict[str, str],
    new: str,
) -> Carry:
    heirs = lineage.heirs((name, key) for name, (key, _) in grown.items())
    whole = {h.source for h in heirs}
    lost = next((n for n in shapes if n not in whole), None)
    if lost is not None:
        raise MeristemError(
            f"the grown module has no parameter that stems from {lost}; give the module that "
            "grown.module() made, or one of a class with the same names",
            weight=lost,
        )
    held = [h for h in heirs if h.source is None or h.source in shapes]
    return Carry(lineage, held, shapes, {n: s for n, (_, s) in grown.items()}, rules, new)


def _known(p: torch.Tensor, names: Mapping[int, str], lineage: Lineage, number: int) -> str:
    if hasattr(p, "full_tensor"):
        raise MeristemError(
            "the optimizer is sharded; take its full state with "
            "torch.distributed.checkpoint.state_dict, and give it to grown.optimizer_state"
        )
    if id(p) not in names:
        raise MeristemError(
            f"a parameter of shape {tuple(p.shape)} in group {number} of the optimizer is none of the "
            "model that grew; give the optimizer of the module that was traced, or that module as source=",
            group=number,
            shape=tuple(p.shape),
        )
    return lineage.names[names[id(p)]]


def _attributes(old: Optimizer) -> dict[str, Any]:
    """What its class keeps beside torch's own, and its hooks. Raises MeristemError where that holds
    parameters, which would be the old ones."""
    held = {id(p) for g in old.param_groups for p in g["params"]}
    out: dict[str, Any] = {n: copy(v) for n, v in vars(old).items() if n in _HOOKS}
    for name, value in vars(old).items():
        if name in _COMMON:
            continue
        if any(id(leaf) in held for leaf in pytree.tree_leaves(value)):
            raise MeristemError(
                f"{type(old).__name__}.{name} holds parameters, and nothing says what it becomes; keep "
                "them in param_groups, or start a new optimizer",
                attribute=name,
            )
        out[name] = copy(value)
    return out


def name_parameters(optimizer: Optimizer, module: Any) -> None:
    """Names in groups that have some, as they are in ``module`` now."""
    names = {id(p): n for n, p in reversed(list(module.named_parameters()))}
    for group in optimizer.param_groups:
        if "param_names" in group:
            group["param_names"] = [names[id(p)] for p in group["params"]]


def _laid_out(value: Any, p: torch.Tensor) -> Any:
    """A state on its parameter's device and in its memory format, as fused steps need it; counts stay
    where the optimizer keeps them."""
    if not isinstance(value, torch.Tensor) or not value.dim():
        return value
    if value.shape == p.shape:
        return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(p.device)


__all__ = ["carry_optimizer", "carry_state_dict", "name_parameters"]
