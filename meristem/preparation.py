"""From a request to everything that growing needs: the solved plan, the edits, the widened carrier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from meristem.imaging import check_sizes, enlarge
from meristem.method_depth import depth_hooks
from meristem.method_masked import refuse_masks
from meristem.mixtures import NO_MIXTURE, experts_wanted, report_experts
from meristem.model import Model, check_model
from meristem.passes import LAYERS
from meristem.prepared import Prepared
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import (
    MeristemError,
    NotPreserved,
    PinnedDimension,
    SizeError,
    UnsupportedOperator,
)
from meristem.rewrite.given import entries
from meristem.rewrite.locks import still_equal
from meristem.rewrite.methods import method, only, words
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.request import resolve
from meristem.stages import Asked, Staged, carry_out, is_copied, listed, parts_of, rounds_of
from meristem.supplied import NOTHING, Supplied
from meristem.widening import Widening

BOUNDARIES = ("pin", "crop", "grow")
COMPENSATIONS = ("graph", "weights")


def prepare(
    model: Model,
    sizes: Mapping[str, int | str],
    *,
    supplied: Supplied = NOTHING,
    **options: Any,
) -> Prepared | Staged:
    """Resolve, solve and script a request: a ``Prepared``, or a ``Staged`` where it takes several growths,
    one after another. Raises what ``meristem.plan`` documents."""
    check_model(model)
    options["given"] = entries(options.get("given"))
    plan = Plan({}, **options)
    _check_options(plan)
    refuse_masks(model)
    chosen = method(plan.method)
    supplied.check(chosen)
    experts, sizes = experts_wanted(model, sizes, plan)
    dimensions = {d.name: d for d in listed(model, chosen)}
    try:
        wishes = resolve(list(dimensions.values()), sizes, boundary=plan.boundary)
    except PinnedDimension as error:
        raise _unsupported(dimensions, error) from None
    asked = Asked(plan, chosen, wishes, experts)
    _check_layers(asked)
    if len(parts_of(asked)) > 1:
        return carry_out(model, asked, supplied, prepare)
    if asked.of("image"):
        script = enlarge(model, plan, wishes)
        prepared = Prepared(model, plan, script, {})
        if script is not None:
            check_sizes(prepared)
        return prepared
    width = [w for w in wishes if w.dimension.kind != "layers"]
    depth = asked.of("layers")
    periods = {n: s.period for n, s in model.stacks.items()} if depth and not chosen.parts else {}
    layers = LAYERS.solve(depth, periods)
    widening = Widening.of(model, plan, width)
    plan.sizes = {**widening.reached, **layers, **experts}
    plan.unused = [n for w in model.graph.unused for n in w.names]
    script = widening.script(supplied)
    rounds = rounds_of(asked, plan.changes)
    if rounds and _copied(model, rounds, plan):
        again = replace(asked, plan=Plan({}, **options), rounds=rounds)
        return carry_out(model, again, supplied, prepare)
    deeper = {n: s for n, s in layers.items() if s != dimensions[n].size}
    extra = depth_hooks(chosen)
    if extra.folds is not None and deeper:
        script = script or EditScript()
        extra.folds(model, plan, script, {model.stacks[n]: s for n, s in deeper.items()})
    mixtures = {n: s for n, s in experts.items() if s > 1}
    prepared = Prepared(model, plan, script, deeper, mixtures, widening.solution)
    if extra.measures is not None and supplied.batches is not None:
        extra.measures(prepared, supplied.batches)
    if mixtures:
        report_experts(prepared)
    elif experts:
        plan.notes.append(NO_MIXTURE)
    if prepared.depth is not None:
        _report_depth(prepared, dimensions)
    return prepared


def _copied(model: Model, rounds: Mapping[str, tuple[int, int]], plan: Plan) -> bool:
    """Are whole multiples of these dimensions made by copies? Not where they are refused."""
    sizes = {n: multiple for n, (multiple, _) in rounds.items()}
    options = plan.options | {"method": only(plan.method, "width"), "given": None, "at": "end"}
    try:
        step = prepare(model, sizes, **options)
    except (NotPreserved, SizeError):
        return False
    return all(is_copied(c) for c in step.plan.changes if c.name in sizes)


def _check_layers(asked: Asked) -> None:
    """MeristemError where a method or places are named for layers and none are asked for."""
    if asked.plan.at != "end" and not asked.of("layers"):
        raise SizeError(
            f"at={asked.plan.at!r} says where new layers go, and the request names none; add them, as "
            '{"layers": "+2"}, or leave it out',
            at=asked.plan.at,
        )
    named = words(asked.plan.method).get("depth")
    if named and not asked.of("layers"):
        raise MeristemError(
            f"method={asked.plan.method!r}: {named.partition(':')[0]} is a method for layers, and the "
            'request names none; add them, as {"layers": "+2"}, or leave the word out'
        )


def _report_depth(prepared: Prepared, dimensions: Mapping[str, Dimension]) -> None:
    """What new layers change. Raises NotPreserved where they take what weights alone do not give."""
    plan, depth = prepared.plan, prepared.depth
    _refuse_gates(plan, depth)
    named = ((dimensions[n], s) for n, s in prepared.layers.items())
    plan.changes += [Change(d.name, "layers", d.place, d.size, s) for d, s in named]
    plan.clones |= prepared.sources
    plan.moves |= prepared.moves
    plan.added += depth.added
    plan.locked += still_equal(depth.clones, plan.weights)
    why = depth_hooks(method(plan.method)).words
    plan.approximate += [a + why for a in depth.approximate]
    plan.notes += [str(r) for r in depth.reports]


def _refuse_gates(plan: Plan, depth: Any) -> None:
    """Weights alone make a block the identity only where some of its own are next to the sum."""
    gated = next((c for c in depth.clones if c.gate), None)
    if gated is not None and plan.compensate == "weights":
        raise NotPreserved(
            f"{gated.stack.name} cannot grow by weights alone: a norm follows the sum of its blocks, or "
            "they share the weights next to it, so that a new block takes a gate, which the class does "
            'not have; use compensate="graph", or leave it out of the request',
            dimension=gated.stack.name,
            place=gated.block.place,
            reason="a new block takes a gate",
        )
    if depth.scales and plan.compensate == "weights":
        raise NotPreserved(
            "scalars=explicit adds operators, which weights alone cannot; leave it out, or use "
            'compensate="graph"',
            reason="scalars on branches",
        )


def _check_options(plan: Plan) -> None:
    placed = depth_hooks(method(plan.method)).at
    if placed and plan.at != "end":
        raise SizeError(f"at={plan.at!r} {placed}", at=plan.at)
    if not isinstance(plan.seed, Integral):
        raise MeristemError(f"seed={plan.seed!r} is no whole number")
    if isinstance(plan.at, str) and plan.at not in ("end", "spread"):
        raise SizeError(f'at={plan.at!r} is neither "end" nor "spread" nor a list of positions')
    if not isinstance(plan.at, str):
        positions = plan.at if isinstance(plan.at, Sequence) else [None]
        if not all(isinstance(p, Integral) for p in positions):
            raise SizeError(f'at={plan.at!r} is neither "end" nor "spread" nor a list of positions')
    for name, value, known in (
        ("boundary", plan.boundary, BOUNDARIES),
        ("compensate", plan.compensate, COMPENSATIONS),
    ):
        if value not in known:
            raise MeristemError(f"{name}={value!r} is not known; choose from {', '.join(known)}")


def _unsupported(named: Mapping[str, Dimension], error: PinnedDimension) -> MeristemError:
    """A pin by an operator without semantics is an error of its own class."""
    d = named[error.dimension]  # type: ignore[attr-defined]
    if not d.opaque:
        return error
    return UnsupportedOperator(
        f"{error}; add its semantics (docs/add-an-operator.md) or grow other dimensions",
        **error.facts,
    )
