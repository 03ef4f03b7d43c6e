"""method="split": what comes k times carries 1/k, in its weights or in scalars of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import UnsupportedOperator
from meristem.rewrite.graph import Array
from meristem.rewrite.interpret import Native
from meristem.rewrite.methods import method
from meristem.rewrite.plan import Plan
from meristem.rewrite.split import check, fold, folded, units
from meristem.rewrite.split_sites import sites
from meristem.rewrite.stacks import Stack

if TYPE_CHECKING:
    from meristem.prepared import Prepared


def folds(model: Model, plan: Plan, script: EditScript, targets: Mapping[Stack, int]) -> None:
    """What comes k times carries 1/k of its branches in its weights, where no scalars do."""
    chosen = method(plan.method)
    found = units(model.graph, model.equations, targets, chosen)
    for unit in found:
        check(unit, explicit=chosen.explicit)
    if chosen.explicit:
        return
    fold(script, folded(found))
    for stack in targets:
        weights = folded(u for u in found if u.stack is stack)
        names = ", ".join(sorted(w.name for w in weights))
        what = "branch" if chosen.parts else "block"
        plan.notes.append(f"{stack.name}: a {what} that is there k times has 1/k in {names}")
    plan.weights |= {e.weight.name: e.expansion for e in script.weights}


def script(prepared: Prepared, wide: Model) -> Any:
    """Blocks or branches k times, with scalars where they are explicit."""
    from meristem.method_depth import blocks
    from meristem.rewrite.sublayers import plan_sublayers, scalars

    chosen = method(prepared.plan.method)
    targets = prepared.targets(wide)
    if not chosen.parts and not chosen.explicit:
        return blocks(prepared, wide)
    found = units(wide.graph, wide.equations, targets, chosen)
    made = plan_sublayers(wide.graph, found, targets) if chosen.parts else blocks(prepared, wide)
    if chosen.explicit:
        made.scales = scalars(wide.graph, found)
    return made


def reports(
    model: Model, plan: Plan, inputs: Sequence[Mapping[str, Array]], native: Native | None
) -> list[str]:
    """The predicted error of what is split beside the measured one, place by place."""
    graph = model.graph
    shapes = {v.name: v.shape for v in graph.inputs}
    fitting = (x for x in inputs if {n: a.shape for n, a in x.items()} == shapes)
    arrays = next(fitting, None)
    if arrays is None:
        return ["no input has the traced sizes, so what is split was not measured one by one"]
    targets = {model.stacks[n]: size for n, size in plan.sizes.items() if n in model.stacks}
    try:
        found = sites(graph, model.equations, targets, method(plan.method), arrays, native)
        return [str(site) for site in found]
    except UnsupportedOperator as error:
        return [f"what is split was not measured one by one: {error}"]


__all__ = ["folds", "reports", "script"]
