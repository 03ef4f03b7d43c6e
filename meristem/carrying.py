"""From a growth to what belongs to a run beside its weights: the optimizer, averages."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meristem.rewrite.errors import MeristemError

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.training.lineage import Lineage


@dataclass(frozen=True)
class Origin:
    """What a grown model remembers of its source: every name of its weights with the one that its recipe
    has, their shapes, and the live parameters, without keeping them."""

    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    live: Mapping[str, weakref.ref[Any]]

    @staticmethod
    def of(model: Model) -> Origin:
        """The origin of everything that grows from ``model``."""
        weights = (*model.graph.weights, *model.graph.unused)
        tensors = getattr(model.carrier, "tensors", {}) if model.side.name == "torch" else {}
        names = {n: n for n in tensors} | {n: w.name for w in weights for n in w.names}
        shapes = {w.name: tuple(w.shape) for w in weights}
        return Origin(names, shapes, {n: weakref.ref(t) for n, t in tensors.items()})

    def named(self, source: Any) -> dict[int, str]:
        """Names of the source's parameters by identity: of ``source``, or of what was traced."""
        if source is not None:
            return {id(p): n for n, p in source.named_parameters() if n in self.names}
        found = ((n, ref()) for n, ref in self.live.items())
        return {id(t): n for n, t in found if t is not None}


def lineage(grown: Model) -> Lineage:
    """The descent of a grown model's weights. Raises MeristemError where it is not grown from torch."""
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
    return Lineage(grown.plan, grown.origin.names)


def optimizer(grown: Model, old: Any, module: Any, source: Any, new: str) -> Any:
    """See ``Model.optimizer``."""
    from meristem.training.optimizer import carry_optimizer

    descent = lineage(grown)
    assert grown.origin is not None
    if module is None:
        module = grown.last_module
    if module is None:
        raise MeristemError(
            "the optimizer needs the module that it is for: call grown.module() first, and keep it, or "
            "give module="
        )
    return carry_optimizer(old, grown.origin.named(source), descent, module, new)


def optimizer_state(grown: Model, state: Mapping[str, Any], kind: Any, new: str) -> dict[str, Any]:
    """See ``Model.optimizer_state``."""
    from meristem.training.optimizer import carry_state_dict

    descent = lineage(grown)
    assert grown.origin is not None
    tensors = grown.state_dict()
    from meristem.carriers.torch_carrier import storage_key

    keys = {n: (storage_key(t), tuple(t.shape)) for n, t in tensors.items()}
    have = {
        descent.names[n] for g in state["param_groups"] for n in g["params"] if n in descent.names
    }
    shapes = {n: s for n, s in grown.origin.shapes.items() if n in have}
    return carry_state_dict(state, kind, descent, keys, shapes, new)


def carry(grown: Model, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """See ``Model.carry``."""
    from meristem.training.weights import carry_weights

    def donor(name: str) -> Any:
        number, _, own = name.partition(":")
        other = grown.others[int(number) - 1].graph
        return next(w.array() for w in other.weights if own in w.names)

    return carry_weights(lineage(grown), tensors, grown.state_dict(), donor)


__all__ = ["Origin", "carry", "lineage", "optimizer", "optimizer_state"]
