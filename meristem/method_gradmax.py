"""method="gradmax": what sums new units, from the gradients of a model that is grown to probe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meristem.model import Model
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.given import Givens, along, entries
from meristem.rewrite.gradmax import sites
from meristem.rewrite.methods import method
from meristem.rewrite.planner import Solution
from meristem.supplied import Supplied

if TYPE_CHECKING:
    from meristem.widening import Widening


def gives(growth: Widening, solution: Solution, supplied: Supplied) -> Mapping[str, Any]:
    """Entries of the weights that sum new units, and means for the others; none where a plan holds them.

    Raises MeristemError without a loss, or where the caller gives them too.
    """
    plan = growth.plan
    found = sites(solution, growth.names)
    missing = [w.name for site in found for w, _ in site.sums if w.name not in plan.given]
    if not missing and (supplied.planned or supplied.loss is None):
        return {}  # made with a loss, now or when the plan was
    if missing and supplied.planned and supplied.loss is None:
        raise MeristemError(
            f"the plan names the weights that sum new units, and {missing[0]} is none of them: exporters "
            "rename what they transpose; grow the model that the plan was made on, and export that"
        )
    if supplied.loss is None:
        raise MeristemError(
            'method="gradmax" reads gradients on batches: give loss=, a function of a module, such as '
            "lambda m: torch.nn.functional.cross_entropy(m(x), y)",
            needs="loss",
        )
    alike = entries({w.name: "mean" for site in found for w in site.others})
    given = along({n: x for site in found for n, x in site.probing().items()})
    twice = sorted((alike | given).keys() & plan.given.keys())
    if twice:
        raise MeristemError(
            f"given names {twice[0]!r}, which method='gradmax' fills by itself; leave it out"
        )
    probe = growth.solve({s.atom: s.atom.size + s.probes for s in found})
    givens = Givens(alike | given, growth.model.graph.weights)
    script = growth.edits(probe, method(plan.method).width, givens)
    side = growth.model.side
    grown = Model(side.widen(growth.model.carrier, script), side)
    from meristem.training.gradients import gradients_of

    gradients = gradients_of(grown.module(), supplied.loss)
    made = {
        n: x
        for site in found
        for n, x in site.directions(site.matrix(probe, gradients), plan.seed).items()
    }
    return alike | along(made)


__all__ = ["gives"]
