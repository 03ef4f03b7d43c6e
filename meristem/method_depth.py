"""What methods of depth do: a table, with a file for each that does much.

A new method needs a name in ``rewrite.methods`` and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from meristem import method_split
from meristem.model import Model
from meristem.passes import NET2DEEPER
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.edits import EditScript
from meristem.rewrite.graph import Array
from meristem.rewrite.interpret import Native
from meristem.rewrite.methods import Chosen, method
from meristem.rewrite.plan import Plan
from meristem.rewrite.stacks import Stack

if TYPE_CHECKING:
    from meristem.prepared import Prepared

Reports = Callable[[Model, Plan, Sequence[Mapping[str, Array]], Native | None], list[str]]
Folds = Callable[[Model, Plan, EditScript, Mapping[Stack, int]], None]


def blocks(prepared: Prepared, wide: Model, *, cancel: bool = False) -> Any:
    """Copies of blocks of residual stacks."""
    from meristem.rewrite.depth import plan_depth

    plan, chosen = prepared.plan, method(prepared.plan.method)
    return plan_depth(
        wide.graph,
        wide.equations,
        prepared.targets(wide),
        at=plan.at,
        order=chosen.order,
        cancel=cancel,
        fresh=f"{plan.seed}|inside" if chosen.insides == "fresh" else "",
    )


def _behind_activations(prepared: Prepared, wide: Model) -> Any:
    from meristem.measuring import unpacked
    from meristem.rewrite.deeper import plan_deeper

    places = prepared.places
    sizes = {places[name]: n for name, n in prepared.layers.items()}
    return plan_deeper(wide.graph, sizes, unpacked(prepared.plan.statistics, places))


def _statistics(prepared: Prepared, batches: Iterable[Any]) -> None:
    from meristem.measuring import statistics

    prepared.plan.statistics = statistics(prepared, batches)


def _everything(model: Model) -> list[Dimension]:
    return list(model.dimensions)


@dataclass(frozen=True)
class DepthHooks:
    """``script`` plans new layers on the model after its growth in width. ``at`` says why positions cannot
    be given; empty where they can. ``dimensions`` lists what a request may name. ``folds`` changes recipes
    of width before, ``measures`` reads batches. ``words`` are added to what is approximate; ``reports`` are
    verification's, on inputs of the source, with what computes operators without semantics."""

    script: Callable[[Prepared, Model], Any] = blocks
    at: str = ""
    dimensions: Callable[[Model], list[Dimension]] = _everything
    folds: Folds | None = None
    measures: Callable[[Prepared, Iterable[Any]], None] | None = None
    words: str = ""
    reports: Reports | None = None


_ORDERED = "places blocks that are the identity; {} says itself where copies go"
DEPTHS: dict[str, DepthHooks] = {
    "identity": DepthHooks(),
    "cancel": DepthHooks(script=partial(blocks, cancel=True)),
    "net2deeper": DepthHooks(
        script=_behind_activations,
        at="places blocks in residual stacks; with net2deeper the selector says where",
        dimensions=NET2DEEPER.dimensions,
        measures=_statistics,
    ),
    "stack": DepthHooks(at=_ORDERED.format("stack")),
    "split": DepthHooks(
        script=method_split.script,
        at=_ORDERED.format("split"),
        folds=method_split.folds,
        words=", k times 1/k of every branch",
        reports=method_split.reports,
    ),
    # Its blocks are copied by another method before (``rewrite.methods.COPIED``).
    "learned": DepthHooks(at=_ORDERED.format("learned")),
}


def depth_hooks(chosen: Chosen) -> DepthHooks:
    """What the method of depth does."""
    return DEPTHS[chosen.depth]


__all__ = ["DEPTHS", "DepthHooks", "blocks", "depth_hooks"]
