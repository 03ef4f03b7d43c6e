"""What a method needs besides sizes, and what is made of it: other models, a loss, learned maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meristem.model import Model
from meristem.rewrite.donors import from_models, from_next_blocks
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.maps import axes_of, mapping, start
from meristem.rewrite.masks import NAME, mask
from meristem.rewrite.methods import Chosen, Method
from meristem.rewrite.packed import pack, unpack
from meristem.rewrite.plan import Plan
from meristem.rewrite.request import by_name


@dataclass(frozen=True)
class Supplied:
    """``models`` to fuse with, a ``loss`` of a module, and ``maps`` that were learned before."""

    models: Sequence[Model] = ()
    loss: Callable[[Any], Any] | None = None
    maps: Mapping[str, str] = field(default_factory=dict)

    def check(self, chosen: Chosen) -> None:
        """Raises MeristemError where something is supplied that the method does not use."""
        if not all(isinstance(m, Model) for m in self.models):
            raise MeristemError("models= is a list of models, of meristem.trace or meristem.load")
        if self.loss is not None and not callable(self.loss):
            raise MeristemError(f"loss= is a function of a module, not {self.loss!r}")
        if self.models and chosen.width.donors != "models":
            raise MeristemError(
                f'models= are for method="fuse", not for method={chosen.width.name!r}'
            )
        if self.loss is not None and not chosen.width.batches:
            raise MeristemError(
                f'loss= is for method="learned" and method="gradmax", not for method={chosen.width.name!r}'
            )


NOTHING = Supplied()


def complete(
    model: Model, plan: Plan, script: EditScript, chosen: Method, supplied: Supplied
) -> None:
    """Change the recipes of copies to what the method makes of them; the plan says what is approximate."""
    if chosen.donors == "next":
        plan.approximate += from_next_blocks(script, model.stacks.values())
    elif chosen.donors == "models":
        others = [m.graph for m in supplied.models]
        plan.approximate += from_models(script, model.graph, others)
    elif chosen.name == "learned":
        plan.maps = dict(supplied.maps) or _learned(model, plan, script, chosen, supplied.loss)
        _map(script, plan)
        plan.approximate.append("new coordinates are learned combinations of the old")
    elif chosen.name == "masked":
        at = chosen.settings["mask"]
        if not 0 <= at <= 1:
            raise MeristemError(f"the mask is {at:g}; give a number from 0 to 1")
        mask(script, at)
        if script.masks and plan.compensate == "weights":
            raise NotPreserved(
                'masks are operators, and weights alone make none; use compensate="graph", or '
                'method="preserve"'
            )
        if script.masks or (script.statistics and at < 1):
            plan.clones[NAME] = ("", repr(at))
        if at:
            plan.approximate.append(f"new coordinates are there by {at:g}")


def anneal(model: Model, t: float, weights: Mapping[str, Any] | None) -> Model:
    """See ``Model.anneal``."""
    from meristem.api import grow

    plan, source = model.plan, model.source
    if plan is None or source is None:
        raise MeristemError('only what method="masked" grew has masks; grow with it')
    if isinstance(t, bool) or not 0 <= float(t) <= 1:
        raise MeristemError(f"the mask goes from 0 to 1, and {t!r} is not between them")
    t = float(t)
    words = [w for w in plan.method.split("+") if w.partition(":")[0].strip() != "masked"]
    options = {**plan.options, "method": "+".join([f"masked:mask={t!r}", *words])}
    out = grow(source, {by_name(n): s for n, s in plan.sizes.items()}, **options)
    out.origin = model.origin
    if weights is not None:
        own = out.state_dict()
        kept = {n: w for n, w in weights.items() if n != NAME}
        out.side.fill(out.carrier, kept | ({NAME: own[NAME]} if NAME in own else {}))
    return out


def _learned(
    model: Model, plan: Plan, script: EditScript, chosen: Method, loss: Any
) -> dict[str, str]:
    """The matrices that lower the loss, packed, by dimension."""
    if loss is None:
        raise MeristemError(
            'method="learned" learns on batches: give loss=, a function of a module, such as '
            "lambda m: torch.nn.functional.cross_entropy(m(x), y)"
        )
    sizes: dict[str, tuple[int, int]] = {}
    for e in script.weights:
        if e.weight.role == "parameter" and not e.expansion.rule:
            sizes |= axes_of(e.expansion)
    if not sizes:
        raise NotPreserved(
            "nothing in this request can be a combination of old coordinates: its sums are not those of "
            'weights alone; use method="preserve"'
        )
    from meristem.training.learned import Settings, learn

    numbers = chosen.settings
    settings = Settings(
        int(numbers["steps"]), numbers["rate"], int(numbers["rank"]), numbers["noise"]
    )
    module = Model(model.side.widen(model.carrier, script), model.side).module()
    plan.maps = {k: pack(start(old, new, k)) for k, (old, new) in sizes.items()}
    trial = replace(script, weights=list(script.weights))
    _map(trial, plan)
    edits = {e.weight.name: e for e in trial.weights if e.expansion.maps}
    cores = {n: e.expansion.core(e.weight.array(), "float64") for n, e in edits.items()}
    recipes = {n: e.expansion for n, e in edits.items()}
    found = learn(module, cores, recipes, sizes, loss, settings, plan.seed)
    return {k: pack(c) for k, c in found.items()}


def _map(script: EditScript, plan: Plan) -> None:
    """Recipes of replicas become recipes of the plan's matrices; what is no parameter keeps replicas."""
    sizes: dict[str, tuple[int, int]] = {}
    for e in script.weights:
        sizes |= axes_of(e.expansion)
    matrices = {
        k: unpack(c, (sizes[k][1] - sizes[k][0], sizes[k][0])) for k, c in plan.maps.items()
    }
    script.weights = [
        replace(e, expansion=mapping(e.expansion, matrices))
        if e.weight.role == "parameter" and axes_of(e.expansion) and not e.expansion.rule
        else e
        for e in script.weights
    ]


__all__ = ["NOTHING", "Supplied", "anneal", "complete"]
