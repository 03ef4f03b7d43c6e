"""method="masked": new coordinates stand behind a mask, which ``Model.anneal`` moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.masks import NAME, mask
from meristem.rewrite.methods import Method, words
from meristem.rewrite.request import by_name
from meristem.supplied import Supplied

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.widening import Widening


def changes(growth: Widening, script: EditScript, chosen: Method, _: Supplied) -> None:
    """Zeros are drawn and masked."""
    plan = growth.plan
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


def refuse_masks(model: Model) -> None:
    """What grows again has no masks: they would stay where they are. Raises NotPreserved."""
    planned = model.plan is not None and any(NAME in p.clones for p in model.plan.steps)
    if NAME in getattr(model.carrier, "tensors", ()) or planned:
        raise NotPreserved(
            "this model has new coordinates behind a mask: carry it to 1 with anneal(1), then grow again",
            reason="a mask",
        )


def anneal(model: Model, t: float, weights: Mapping[str, Any] | None) -> Model:
    """See ``Model.anneal``."""
    from meristem.model import Model, in_memory
    from meristem.preparation import prepare

    plan, source = model.plan, model.source
    if plan is None or source is None:
        raise MeristemError('only what method="masked" grew has masks; grow with it')
    if isinstance(t, bool) or not isinstance(t, SupportsFloat) or not 0 <= float(t) <= 1:
        raise MeristemError(f"the mask goes from 0 to 1, and {t!r} is not between them")
    if weights is not None and not isinstance(weights, Mapping):
        raise MeristemError(
            f"weights= is a mapping of tensors by name, not {type(weights).__name__}; give the "
            "state_dict() of a module of this growth, or leave it out"
        )
    t = float(t)
    named = words(plan.method) | {"width": f"masked:mask={t!r}"}
    options = plan.options | {"statistics": plan.measured, "method": "+".join(named.values())}
    with in_memory(plan):
        prepared = prepare(source, {by_name(n): s for n, s in plan.sizes.items()}, **options)
        again = source if prepared.masked else None
        out = Model(prepared.carrier, source.side, prepared.plan, (), again, model.origin)
    if weights is not None:
        own = out.state_dict()
        kept = {n: w for n, w in weights.items() if n != NAME}
        out.side.fill(out.carrier, kept | ({NAME: own[NAME]} if NAME in own else {}))
    return out


__all__ = ["anneal", "changes", "refuse_masks"]
