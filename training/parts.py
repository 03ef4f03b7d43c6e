"""New entries of grown weights as parameters of their own: another learning rate, decay, step count.

A weight that grew is put together from two parameters, its old entries and its new ones
(``torch.nn.utils.parametrize``), and the optimizer has them in different groups (SPARKLING,
arXiv:2602.02472, warms up new parameters alone). New layers are new whole. ``fuse`` undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.moments import kept
from meristem.rewrite.plan import Plan
from meristem.training.carry import unshared
from meristem.training.lineage import Lineage
from meristem.training.optimizer import name_parameters
from meristem.training.scheduler import GROWN_FROM
from meristem.training.states import rules_of

Place = tuple[nn.Module, str]
State = dict[str, Any]


class _Origin(Protocol):
    names: Mapping[str, str]


class Grown(Protocol):
    """A grown model: its plan, and the names of its source."""

    plan: Plan
    origin: _Origin


class Parts(nn.Module):
    """A weight of its old entries [old shape] and its new ones: a block where one axis grew, else a
    vector, in row-major order."""

    order: torch.Tensor
    split_by_growth = True

    def __init__(self, recipe: Expansion) -> None:
        super().__init__()
        where = kept(recipe)
        self.shape = recipe.shape
        old = np.zeros(self.shape, bool)
        old[np.ix_(*where)] = True
        grown = [a for a, w in enumerate(where) if len(w) < self.shape[a]]
        self.old_shape = tuple(len(w) for w in where)
        count = old.size - int(old.sum())
        self.new_shape: tuple[int, ...] = (count,)
        if len(grown) == 1:
            rest = self.shape[grown[0]] - self.old_shape[grown[0]]
            self.new_shape = tuple(rest if a == grown[0] else n for a, n in enumerate(self.shape))
        places = np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)])
        order = np.empty_like(places)
        order[places] = np.arange(places.size)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("places", torch.from_numpy(places), persistent=False)

    def forward(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """The whole weight."""
        return torch.cat([old.flatten(), new.flatten()])[self.order].reshape(self.shape)

    def right_inverse(self, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Its old and its new entries."""
        flat = whole.flatten()[self.places]
        count = int(np.prod(self.old_shape))
        return flat[:count].reshape(self.old_shape), flat[count:].reshape(self.new_shape)


@dataclass(eq=False)
class _Split:
    """One weight in two: ``places`` are all that is tied to it, ``orders`` the names beside them."""

    name: str
    places: list[Place]
    orders: list[list[str]]
    old: nn.Parameter
    new: nn.Parameter

    @property
    def parts(self) -> Parts:
        owner, leaf = self.places[0]
        return owner.parametrizations[leaf][0]  # type: ignore[index,return-value]


@dataclass(eq=False)
class Separated:
    """What ``separate`` did. ``groups`` are the numbers of the optimizer's groups of new parameters."""

    optimizer: Optimizer
    module: nn.Module
    groups: list[int]
    splits: list[_Split] = field(default_factory=list)

    def fuse(self) -> None:
        """Make plain weights again, in the groups of their old entries; parameters of new layers join the
        group of those that they are like.

        The step count of a weight is that of its old entries; moments of Adam that counted otherwise are
        rescaled so that the next update is the same. Schedulers follow by ``carry_scheduler``.
        """
        optimizer = self.optimizer
        homes = {i: optimizer.param_groups[i] for i in self.groups}
        for split in self.splits:
            source = next(g for g in optimizer.param_groups if _holds(g, split.old))
            fresh = next(g for g in homes.values() if _holds(g, split.new))
            parts = split.parts
            state = _joined(
                parts,
                optimizer.state.pop(split.old, {}),
                optimizer.state.pop(split.new, {}),
                source,
            )
            whole = _plain(split)
            source["params"] = [whole if p is split.old else p for p in source["params"]]
            fresh["params"] = [p for p in fresh["params"] if p is not split.new]
            if state:
                optimizer.state[whole] = state
        for group in homes.values():
            home = optimizer.param_groups[group[GROWN_FROM]]
            home["params"] = self._in_order([*home["params"], *group["params"]])
        optimizer.param_groups[:] = [g for g in optimizer.param_groups if GROWN_FROM not in g]
        self.splits, self.groups = [], []
        name_parameters(optimizer, self.module)

    def _in_order(self, params: list[torch.Tensor]) -> list[torch.Tensor]:
        """As in the module, by which order checkpoints find the state of a weight."""
        place = {id(p): i for i, p in enumerate(self.module.parameters())}
        return sorted(params, key=lambda p: place[id(p)])


def separate(grown: Grown, module: nn.Module, optimizer: Optimizer, **settings: Any) -> Separated:
    """Give what is new in ``module`` groups of its own in ``optimizer``, one for each group that has some,
    with ``settings`` (``lr``, ``weight_decay`` and the like) in place of that group's.

    ``optimizer`` is what ``grown.optimizer`` made for ``module``. Replicas count as new. New entries whose
    moments are zero count their steps from zero. Until ``fuse``, split weights stand in the module's
    state dict as ``parametrizations.<weight>.original0`` (old) and ``original1`` (new).

    Raises MeristemError where a setting is unknown, nothing is new, the optimizer needs whole matrices, or
    the growth was carried out in stages.
    """
    rules_of(type(optimizer))
    unknown = settings.keys() - optimizer.param_groups[0].keys()
    if unknown:
        raise MeristemError(
            f"{type(optimizer).__name__} has no setting {', '.join(sorted(unknown))}; its groups have "
            f"{', '.join(sorted(optimizer.param_groups[0].keys() - {'params'}))}"
        )
    if any(GROWN_FROM in g for g in optimizer.param_groups):
        raise MeristemError("the optimizer has groups of new parameters already; fuse them first")
    if len(grown.plan.steps) > 1:
        raise MeristemError(
            f"this growth was carried out in {len(grown.plan.steps)} stages, between which weights change "
            "twice; call grow once for each, and separate after the last"
        )
    new, split = _new(grown, module, optimizer)
    if not new and not split:
        raise MeristemError("nothing in this optimizer is new, so nothing can be separated")
    for name, (_, recipe) in split.items():
        _check(name, Parts(recipe), optimizer)
    out = Separated(optimizer, module, [])
    for number, group in enumerate(list(optimizer.param_groups)):
        fresh = [p for p in group["params"] if p in new]
        group["params"] = [p for p in group["params"] if p not in new]
        for name, (p, recipe) in split.items():
            if _holds(group, p):
                parted = _split(module, name, p, recipe)
                group["params"] = [parted.old if q is p else q for q in group["params"]]
                fresh.append(parted.new)
                _part_state(optimizer, p, parted)
                out.splits.append(parted)
        if fresh:
            out.groups.append(len(optimizer.param_groups))
            optimizer.param_groups.append(
                {k: unshared(v) for k, v in group.items() if k != "params"}
                | {**settings, "params": fresh, GROWN_FROM: number}
            )
            if "lr" in settings and "initial_lr" in group:
                optimizer.param_groups[-1]["initial_lr"] = settings["lr"]
    name_parameters(optimizer, module)
    return out


def _new(
    grown: Grown, module: nn.Module, optimizer: Optimizer
) -> tuple[set[torch.Tensor], dict[str, tuple[nn.Parameter, Expansion]]]:
    """Parameters of new layers, and weights with new entries, of those that the optimizer holds."""
    lineage = Lineage(grown.plan, grown.origin.names)
    named = dict(module.named_parameters(remove_duplicate=False))
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    if not held & {id(p) for p in named.values()}:
        raise MeristemError(
            "the optimizer has no parameter of this module; give the module that it was made for"
        )
    whole: set[torch.Tensor] = set()
    split: dict[str, tuple[nn.Parameter, Expansion]] = {}
    for heir in lineage.heirs((n, id(p)) for n, p in named.items()):
        p = named[heir.name]
        if id(p) not in held:
            continue
        recipe = lineage.recipe(heir.source) if heir.source is not None else None
        if not heir.whole:
            whole.add(p)
        elif recipe is not None and any(a.grows for a in recipe.axes):
            split[heir.name] = (p, recipe)
    return whole, split


def _check(name: str, parts: Parts, optimizer: Optimizer) -> None:
    if isinstance(optimizer, torch.optim.Muon) and len(parts.new_shape) != 2:
        raise MeristemError(
            f"Muon orthogonalises whole matrices, and the new entries of {name} are none: two of its axes "
            "grew; grow them one after another, or leave the weight whole",
            weight=name,
        )
    keys = {k for r in ("rows", "columns") for k, v in rules_of(type(optimizer)).items() if v == r}
    if keys:
        raise MeristemError(
            f"{type(optimizer).__name__} keeps {' and '.join(sorted(keys))} of whole matrices, which "
            "cannot be split; give new layers a group by add_param_group, or take another optimizer"
        )


def _split(module: nn.Module, name: str, p: nn.Parameter, recipe: Expansion) -> _Split:
    places: list[Place] = [
        (owner, leaf)
        for owner in module.modules()
        for leaf, q in owner._parameters.items()
        if q is p
    ]
    orders = [list(owner._parameters) for owner, _ in places]
    originals: list[nn.Parameter] = []
    for owner, leaf in places:
        parametrize.register_parametrization(owner, leaf, Parts(recipe))
        stored = owner.parametrizations[leaf]  # type: ignore[index]
        if originals:
            stored.original0, stored.original1 = originals
        originals = [stored.original0, stored.original1]
    return _Split(name, places, orders, *originals)


def _plain(split: _Split) -> nn.Parameter:
    """The weight as one parameter again, everywhere."""
    whole: nn.Parameter | None = None
    for (owner, leaf), order in zip(split.places, split.orders, strict=True):
        parametrize.remove_parametrizations(owner, leaf)
        if whole is None:
            whole = nn.Parameter(
                getattr(owner, leaf).detach(), requires_grad=split.old.requires_grad
            )
        setattr(owner, leaf, whole)
        for other in (n for n in order if n in owner._parameters):
            owner._parameters[other] = owner._parameters.pop(other)
    assert whole is not None
    return whole


def _part_state(optimizer: Optimizer, p: torch.Tensor, split: _Split) -> None:
    state = optimizer.state.pop(p, {})
    if not state:
        return
    old: State = {}
    new: State = {}
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.dim():
            a, b = split.parts.right_inverse(value)
            old[key], new[key] = a.clone(), b.clone()
        else:
            old[key] = new[key] = value
            if isinstance(value, torch.Tensor):
                new[key] = value.clone()
    optimizer.state[split.old] = old
    moments = [v for v in new.values() if isinstance(v, torch.Tensor) and v.dim()]
    if any(bool(v.any()) for v in moments):
        optimizer.state[split.new] = new


def _joined(parts: Parts, old: State, new: State, group: Mapping[str, Any]) -> State:
    """The state of a whole weight; parts that have none have zeros."""
    if not old and not new:
        return {}
    factors = _rescaling(old, new, group)
    out: State = {}
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        known = a if isinstance(a, torch.Tensor) else b
        if isinstance(known, torch.Tensor) and known.dim():
            a = known.new_zeros(parts.old_shape) if a is None else a
            b = known.new_zeros(parts.new_shape) if b is None else b * factors.get(key, 1.0)
            out[key] = parts(a, b).detach().clone()
        else:
            out[key] = b if a is None else a
    return out


def _rescaling(old: State, new: State, group: Mapping[str, Any]) -> dict[str, float]:
    """Adam divides moments by 1 - beta^t; one t for both asks for (1 - beta^t_old) / (1 - beta^t_new)."""
    if "betas" not in group or "step" not in old or "step" not in new:
        return {}
    before, after = float(new["step"]), float(old["step"])
    if before == after or not before:
        return {}
    keys: Sequence[tuple[str, float]] = (
        ("exp_avg", float(group["betas"][0])),
        ("exp_avg_sq", float(group["betas"][1])),
        ("max_exp_avg_sq", float(group["betas"][1])),
    )
    return {k: (1 - beta**after) / (1 - beta**before) for k, beta in keys}


def _holds(group: Mapping[str, Any], p: torch.Tensor) -> bool:
    return any(q is p for q in group["params"])


__all__ = ["Grown", "Parts", "Separated", "separate"]
