"""Growth of images: from wishes for their sides to the script, and what the plan says of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from meristem.model import Model
from meristem.passes import IMAGE
from meristem.prepared import Prepared
from meristem.rewrite.blocks import Growth
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import CarrierError, NotPreserved, SizeError
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.reports import listed
from meristem.rewrite.request import Wish


def enlarge(model: Model, plan: Plan, wishes: Sequence[Wish]) -> EditScript | None:
    """The script of larger images, which is reported in the plan; None where they have their sizes.

    Raises SizeError where sides cannot have these sizes, or an option speaks against it.
    """
    _check_options(plan)
    atoms, reached = IMAGE.solve(wishes)
    plan.sizes = reached
    plan.unused = [n for w in model.graph.unused for n in w.names]
    growth = Growth(atoms)
    for w in wishes:
        d = w.dimension
        if growth.size(d.term) != reached[d.name]:
            raise SizeError(
                f"{d.name} would become {growth.size(d.term)} instead of {reached[d.name]}: both sides of "
                "the grid are one axis somewhere; ask for sizes that agree",
                dimension=d.name,
                size=d.size,
                target=reached[d.name],
            )
    grows = [(d, n) for d in model.images.dimensions if (n := growth.size(d.term)) != d.size]
    if not grows:
        return None
    script = model.images.script(atoms)
    plan.changes = [Change(d.name, d.kind, d.place, d.size, n, ("resized",)) for d, n in grows]
    plan.weights = {e.weight.name: e.expansion for e in script.weights}
    sides = ", ".join(f"{d.place} from {d.size} to {n}" for d, n in grows)
    grids = ", ".join(
        f"{t.size} to {growth.size(t)}" for t in dict.fromkeys(t for d, _ in grows for t in d.inner)
    )
    plan.approximate = [
        f"images grow ({sides}), where the old function is not defined: errors are those on images that "
        "are interpolated to the new size",
        *(f"{name} is interpolated over the grid of patches ({grids})" for name in plan.weights),
    ]
    return script


def check_sizes(prepared: Prepared) -> None:
    """The larger program, read anew, must have the old one's operators, with the planned sizes.

    A native operator can state a size that the view does not show, as sides of images never grew before.
    Raises NotPreserved where one does.
    """
    model, images = prepared.model, prepared.model.images
    changed = {c.name: c.after for c in prepared.plan.changes}
    sides = [d for d in images.dimensions if d.name in changed]
    growth = Growth({d.inner[0]: d.inner[0].size * changed[d.name] // d.size for d in sides})
    try:
        found = Model(prepared.widened, model.side).graph.ops
    except CarrierError as error:
        raise _hidden(str(error).partition("; please")[0]) from error
    for old, new in zip_longest(model.graph.ops, found):
        if old is None or new is None or old.kind != new.kind:
            raise _hidden(f"{(old or new).where} is another operator at the new size")
        for v, w in zip(old.outputs, new.outputs, strict=True):
            for t, got in zip(images.eq.of(v), w.shape, strict=True):
                if growth.touches(t) and got != growth.size(t):
                    raise _hidden(f"{old.where} makes an axis of {got}, not {growth.size(t)}")


def _hidden(what: str) -> NotPreserved:
    return NotPreserved(
        f"images cannot grow: an operator states a size of its own ({what}); trace the model at the larger "
        "size instead",
        reason=what,
    )


def _check_options(plan: Plan) -> None:
    """The interface of images grows with them, and tables are not given."""
    why = ""
    if plan.boundary == "crop":
        why = 'boundary="crop" keeps the interface, but a larger image is an input; leave it out'
    elif plan.given:
        names = listed(sorted(plan.given))
        why = f"given= names {names}, but tables are interpolated from what is stored; leave it out"
    if why:
        raise SizeError(f"images cannot grow so: {why}")
