"""Upcycling in the pipeline: which MLPs a request names, and what the plan says of their mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from meristem.model import Model
from meristem.passes import UPCYCLE
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import MeristemError, NotPreserved, SelectorError
from meristem.rewrite.methods import method
from meristem.rewrite.mlps import Mlp, find_mlps
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.request import resolve
from meristem.rewrite.upcycle import UpcycleScript, experts_dimension, plan_upcycle

if TYPE_CHECKING:
    from meristem.prepared import Prepared

Sizes = Mapping[str, int | str]

# What a plan says where every number of experts that was asked for is today's.
NO_MIXTURE = (
    "no mixture is made: an MLP is one expert as it is, and a mixture has two or more; ask for "
    "as many"
)


def experts_wanted(model: Model, sizes: Sizes, plan: Plan) -> tuple[dict[str, int], Sizes]:
    """Numbers of experts that a request asks of MLPs, and the rest of the request.

    Only a method with ``upcycle`` asks; then every selector of the kind ``experts`` means MLPs. Raises
    SelectorError, PinnedDimension, SizeError or NotPreserved where a mixture cannot take their place.
    """
    top = method(plan.method).top
    if not top or not isinstance(sizes, Mapping):
        return {}, sizes
    asked = {s: n for s, n in sizes.items() if isinstance(s, str) and _kind(s) == "experts"}
    rest = {s: n for s, n in sizes.items() if s not in asked}
    if not asked:
        raise MeristemError(
            f"method={plan.method!r} makes mixtures of MLPs, and the request names none; give their "
            'number of experts, as {"experts": 8}'
        )
    if plan.compensate == "weights":
        raise NotPreserved(
            "weights alone make no mixture: a router and a choice are operators that the class does not "
            'have; use compensate="graph"'
        )
    found = mixable(model)
    if not found:
        raise SelectorError(
            "this model has no MLP that could become a mixture: no units between two contractions and a "
            "nonlinearity; print(model) lists what it has"
        )
    return UPCYCLE.solve(resolve(found, asked), top), rest


def mixable(model: Model) -> list[Dimension]:
    """The numbers of experts, one each, of what could become a mixture."""
    return [experts_dimension(m) for m in find_mlps(model.graph, model.equations, model.dimensions)]


def _kind(selector: str) -> str:
    return selector.partition("@")[0].partition("#")[0]


def upcycling(wide: Model, prepared: Prepared) -> UpcycleScript:
    """The script on the widened model, whose MLPs have the names that they had before."""
    plan = prepared.plan
    before = find_mlps(prepared.model.graph, prepared.model.equations, prepared.model.dimensions)
    after = find_mlps(wide.graph, wide.equations, wide.dimensions)
    if [m.dimension.place for m in before] != [m.dimension.place for m in after]:
        raise NotPreserved(
            "the MLPs are not found again behind what the growth in width adds (masks, say); make the "
            "mixtures in another step"
        )
    twins = dict(zip((m.name for m in before), after, strict=True))
    mlps: dict[Mlp, int] = {twins[n]: size for n, size in prepared.experts.items()}
    return plan_upcycle(mlps, method(plan.method).top, _stored(wide), plan.seed)


def _stored(model: Model) -> list[str]:
    """Every stored name; small constants are no weights of the view, but a torch program names them."""
    graph = model.graph
    names = [n for w in (*graph.weights, *graph.unused) for n in w.names]
    return list(dict.fromkeys([*names, *getattr(model.carrier, "tensors", ())]))


def report_experts(prepared: Prepared) -> None:
    """What the plan says: numbers of experts, new names, added operators."""
    plan, script = prepared.plan, prepared.upcycling
    plan.changes += [
        Change(m.mlp.name, "experts", m.mlp.dimension.place, 1, len(m.experts), ("upcycle",))
        for m in script.mixtures
    ]
    plan.clones |= script.sources(_stored(prepared.model))
    plan.added += script.added


__all__ = ["NO_MIXTURE", "experts_wanted", "mixable", "report_experts", "upcycling"]
