"""From a growth to what belongs to a run beside its weights: the optimizer, averages."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from meristem.rewrite.errors import MeristemError

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.training.lineage import Lineage


@dataclass(frozen=True)
class Origin:
    """What a grown model remembers of its source: every name of its weights with the one that its recipe
    has, their shapes, and the live parameters, without keeping them. ``between`` are the models that a
    growth in stages has passed."""

    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    live: Mapping[str, weakref.ref[Any]]
    between: tuple[Between, ...] = ()

    @staticmethod
    def of(model: Model, passed: Sequence[Model] = ()) -> Origin:
        """The origin of everything that grows from ``model``, through the models that are ``passed``."""
        weights = (*model.graph.weights, *model.graph.unused)
        tensors = getattr(model.carrier, "tensors", {}) if model.side.name == "torch" else {}
        names = {n: n for n in tensors} | {n: w.name for w in weights for n in w.names}
        shapes = {w.name: tuple(w.shape) for w in weights}
        live = {n: weakref.ref(t) for n, t in tensors.items()}
        torch = [m for m in passed if m.side.name == "torch"]
        return Origin(names, shapes, live, tuple(map(Between.of, torch)))

    def named(self, source: Any) -> dict[int, str]:
        """Names of the source's parameters by identity: of ``source``, or of what was traced."""
        if source is not None:
            return {id(p): n for n, p in source.named_parameters() if n in self.names}
        found = ((n, ref()) for n, ref in self.live.items())
        return {id(t): n for n, t in found if t is not None}


@dataclass(frozen=True)
class Between:
    """A model between two stages of a growth: its ``origin``, its ``tensors`` without their entries (tied
    names share one), and those that stem from nothing (gates), ``made``."""

    origin: Origin
    tensors: Mapping[str, Any]
    made: Mapping[str, Any]

    @staticmethod
    def of(model: Model) -> Between:
        """What is remembered of a model that has grown."""
        from meristem.backends.program import like
        from meristem.carriers.torch_carrier import storage_key

        assert model.plan is not None
        known: dict[Any, Any] = {}
        tensors, made = {}, {}
        stored = {**model.carrier.unused, **model.carrier.tensors}
        for name in model.state_dict():
            t = stored[name]
            key = storage_key(t)
            if key not in known:
                known[key] = like(t, t.detach().to("meta"))
            tensors[name] = known[key]
            if not model.plan.clones.get(name, (name, ""))[0]:
                made[name] = t.detach().clone()
        return Between(Origin.of(model), tensors, made)

    def named_parameters(self, **_: Any) -> Iterator[tuple[str, Any]]:
        """As of a module."""
        import torch

        return ((n, t) for n, t in self.blank.items() if isinstance(t, torch.nn.Parameter))

    @cached_property
    def blank(self) -> dict[str, Any]:
        """Tensors with room for entries."""
        from meristem.backends.program import like

        made: dict[int, Any] = {}
        for t in self.tensors.values():
            if id(t) not in made:
                made[id(t)] = like(t, t.new_empty(t.shape, device="cpu"))
        return {n: made[id(t)] for n, t in self.tensors.items()} | dict(self.made)

    def keys(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """For every name what its tied names share, and its shape."""
        return {n: (id(t), tuple(t.shape)) for n, t in self.tensors.items()}


def lineages(grown: Model) -> list[Lineage]:
    """The descent of a grown model's weights, growth by growth. Raises MeristemError where it is not grown
    from torch."""
    from meristem.training.lineage import Lineage

    if grown.plan is None or grown.origin is None:
        raise MeristemError(
            "this model did not grow, so nothing is carried; give what meristem.grow made"
        )
    if grown.side.name != "torch":
        raise MeristemError(
            "an optimizer belongs to a torch module, and this model came from ONNX; trace the torch model "
            "and grow it by the same plan"
        )
    origins = [grown.origin, *(b.origin for b in grown.origin.between)]
    return [Lineage(p, o.names) for p, o in zip(grown.plan.steps, origins, strict=True)]


def optimizer(grown: Model, old: Any, module: Any, source: Any, new: str) -> Any:
    """See ``Model.optimizer``."""
    from meristem.training.optimizer import carry_optimizer

    descent = lineages(grown)
    assert grown.origin is not None
    if module is None:
        module = grown.last_module
    if module is None:
        raise MeristemError(
            "the optimizer needs the module that it is for: call grown.module() first, and keep it, or "
            "give module="
        )
    names = grown.origin.named(source)
    for way, then in zip(descent, (*grown.origin.between, module), strict=True):
        old = carry_optimizer(old, names, way, then, new)
        names = {id(p): n for n, p in then.named_parameters()}
    return old


def optimizer_state(grown: Model, state: Mapping[str, Any], kind: Any, new: str) -> dict[str, Any]:
    """See ``Model.optimizer_state``."""
    from meristem.carriers.torch_carrier import storage_key
    from meristem.training.optimizer import carry_state_dict

    descent = lineages(grown)
    assert grown.origin is not None
    own = {n: (storage_key(t), tuple(t.shape)) for n, t in grown.state_dict().items()}
    between = grown.origin.between
    origins = [grown.origin, *(b.origin for b in between)]
    for way, origin, keys in zip(
        descent, origins, [*(b.keys() for b in between), own], strict=True
    ):
        held = (n for g in state["param_groups"] for n in g["params"])
        have = {way.names[n] for n in held if n in way.names}
        shapes = {n: s for n, s in origin.shapes.items() if n in have}
        state = carry_state_dict(state, kind, way, keys, shapes, new)
    return dict(state)


def carry(grown: Model, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """See ``Model.carry``."""
    from meristem.training.weights import carry_weights

    def donor(name: str) -> Any:
        number, _, own = name.partition(":")
        other = grown.others[int(number) - 1].graph
        return next(w.array() for w in other.weights if own in w.names)

    descent = lineages(grown)
    assert grown.origin is not None
    stores = [*(b.blank for b in grown.origin.between), grown.state_dict()]
    for way, store in zip(descent, stores, strict=True):
        tensors = carry_weights(way, tensors, store, donor)
    return dict(tensors)


__all__ = ["Between", "Origin", "carry", "lineages", "optimizer", "optimizer_state"]
