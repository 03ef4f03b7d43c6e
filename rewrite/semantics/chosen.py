"""What a choice of the largest scores does to copies: the rules of mixtures of experts.

A router's scores s over E experts are repeated m times, and of m E copies the m k largest are taken.
Copies are equal, so that the m k largest are all m copies of the k largest, in some order, which is the
same for the values and for the places. So along the axis of the chosen every old entry is there m times.
Nothing that follows may depend on where: an order of its own, a weight or a constant along that axis are
refused. What indexes E by the places reads, or writes, copies of what it read or wrote before; the places
themselves are other numbers, so nothing else may compute with them.

Where scores of different experts are equal at the border of the choice, the runtime chooses, in the old
model as in the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import TYPE_CHECKING

import numpy as np

from meristem.rewrite.axes import Term, atoms_of, find
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of
from meristem.rewrite.graph import Graph, Op, Value, Weight
from meristem.rewrite.recognise import weight_of
from meristem.rewrite.scale import NONE, Linear

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations

# Operators that hand places on as they are, every one of them.
_MOVES = ("identity", "cast", "reshape", "permute", "expand")
_READS = {"take": 1, "take_along": 1, "scatter": 1}
HOW = ("topk", "topk_index")


def chosen_from(v: Value) -> Op | None:
    """The choice of the largest whose places ``v`` holds, in any layout."""
    op = v.producer
    while op is not None and _hands_on(op):
        op = op.inputs[0].producer
    places = op is not None and op.kind == "scan" and op.attrs["how"] == "topk_index"
    return op if places else None


def _hands_on(op: Op) -> bool:
    """Are the places of the result those of the operand, all of them?"""
    whole = op.kind == "slice" and op.inputs[0].shape == op.output.shape
    return op.kind in _MOVES or whole


def scored(op: Op, eq: Equations) -> Term:
    """The axis that a choice chooses among."""
    return _axis(op, op.inputs[0], eq)


def taken(op: Op, eq: Equations) -> Term:
    """The axis of the chosen."""
    return _axis(op, op.output, eq)


def _axis(op: Op, v: Value, eq: Equations) -> Term:
    axis: int = op.attrs["axis"]
    return eq.of(v)[axis]


def taken_with(op: Op, eq: Equations) -> Term | None:
    """The axis of the chosen, where the other result of the same choice has been met."""
    for other, _ in op.inputs[0].uses:
        ranks = other.kind == "scan" and other.attrs["how"] in HOW and other is not op
        if ranks and all(other.attrs[n] == op.attrs[n] for n in ("axis", "k", "descending")):
            return _axis(op, other.output, eq)
    return None


def tie(eq: Equations, t: Term, index: Value) -> bool:
    """Equate an axis that chosen places index with the one that they were chosen from."""
    op = chosen_from(index)
    if op is None or scored(op, eq).size != t.size:
        return False
    eq.equal(t, scored(op, eq))
    return True


def mixtures(graph: Graph, eq: Equations) -> dict[Term, Term]:
    """For the experts of every mixture the axis of the chosen ones: a router's choice reads weights by its
    places, or writes them into gates."""
    out: dict[Term, Term] = {}
    for op in graph.ops:
        op_reads = op.kind == "take" and weight_of(op.inputs[0]) is not None
        found = chosen_from(op.inputs[1]) if op_reads or op.kind == "scatter" else None
        if found is not None and op.attrs["axis"] < len(eq.of(op.inputs[0])):
            experts = find(eq.of(op.inputs[0])[op.attrs["axis"]])
            if experts is find(scored(found, eq)):
                out.setdefault(experts, find(taken(found, eq)))
    return out


def points_at(flow: Flow, index: Value, t: Term) -> bool:
    """Do the entries of ``index`` name copies along the axis ``t``?"""
    op = chosen_from(index)
    return op is not None and find(scored(op, flow.eq)) is find(t)


def fresh_along(flow: Flow, v: Value, axis: int) -> list[int]:
    """The atoms with new coordinates along an axis."""
    return [d.atom for b in flow.grid(v)[axis] for d in b.digits if d.fresh]


def require_copies(flow: Flow, v: Value, axis: int, why: str) -> bool:
    """Oblige everything new along an axis to be even copies; False, with a failure, where it cannot be."""
    new = fresh_along(flow, v, axis)
    if not all(flow.growth.copies(a) and flow.growth.even(a) for a in new):
        flow.fail(why, new)
        return False
    for twin in _twins(flow, v, axis):
        flow.oblige(twin, f"{why}; they must be copies", new)
    return True


def _twins(flow: Flow, v: Value, axis: int) -> Iterator[Formula]:
    grid, cells = flow.grid(v), flow.of(v)
    for index in np.ndindex(cells.shape):
        for k, (a, _) in enumerate(flow.fresh_digits(grid, index)):
            if a == axis:
                yield cells[index].twins[k]


def softmax(op: Op, flow: Flow) -> None:
    """Over m copies of everything each entry is 1/m of what it was, and copies of it are."""
    x, axis = op.inputs[0], op.attrs["axis"] % len(op.inputs[0].shape)
    for cell in flow.of(x).flat:
        flow.require_unscaled(cell.scale, "is not homogeneous")
    flow.fill(op.output, Cell(scale=NONE, nonneg=TRUE))
    why = "normalises over it, and a new entry would take weight"
    if op.attrs.get("log"):
        flow.fail("takes logarithms of weights that copies divide", fresh_along(flow, x, axis))
    elif require_copies(flow, x, axis, why):
        ratio = flow.growth.size(flow.eq.of(x)[axis]) / x.shape[axis]
        scale = Linear(-log(ratio))
        flow.set(op.output, repeated(op.output, flow, axis, Cell(scale=scale, nonneg=TRUE)))


def choice(op: Op, flow: Flow) -> None:
    """The m k largest of m copies are all copies of the k largest."""
    x, axis, places = op.inputs[0], op.attrs["axis"], op.attrs["how"] == "topk_index"
    cells = list(flow.of(x).flat)
    scale = flow.equal_scales([c.scale for c in cells], "orders blocks")
    nonneg = TRUE if places else all_of(c.nonneg for c in cells)
    old = Cell(scale=NONE if places or scale is None else scale, nonneg=nonneg)
    flow.fill(op.output, old)
    among, out = scored(op, flow.eq), taken(op, flow.eq)
    new = sorted({*fresh_along(flow, x, axis), *fresh_along(flow, op.output, axis)})
    if not require_copies(flow, x, axis, "chooses among new entries"):
        return
    wrong = _unfit(op, flow, among, out)
    if wrong:
        flow.fail(wrong, new)
        return
    flow.set(op.output, repeated(op.output, flow, axis, old))


def written(op: Op, flow: Flow) -> None:
    """Every copy of a chosen place gets a copy of what that place got before."""
    axis = op.attrs["axis"]
    x, index, z = op.inputs
    cells = [c for v in (x, z) for c in flow.of(v).flat]
    scaled = [c.scale for v in (x, z) if not _zeros(v) for c in flow.of(v).flat]
    scale = flow.equal_scales(scaled, "writes blocks")
    old = Cell(scale=scale, nonneg=all_of(c.nonneg for c in cells))
    flow.fill(op.output, old)
    if not points_at(flow, index, flow.eq.of(x)[axis]):
        flow.fail("writes into it by an index tensor", fresh_along(flow, x, axis))
        return
    sides = [require_copies(flow, v, axis, "writes into new entries") for v in (x, z)]
    if all(sides):
        flow.set(op.output, repeated(op.output, flow, axis, old))


def _zeros(v: Value) -> bool:
    """A stored tensor of zeros, which have any scale."""
    return isinstance(v, Weight) and v.role != "parameter" and not np.any(v.array())


def _unfit(op: Op, flow: Flow, among: Term, out: Term) -> str:
    """Why what is chosen is not copies of what was chosen before; empty where it is."""
    growth, among, out = flow.growth, find(among), find(out)
    if among.kind != "atom" or out.kind != "atom":
        return "chooses along an axis that has parts"
    if growth.size(among) * out.size != growth.size(out) * among.size:
        return "would choose another part of the entries"
    if out in growth.sizes and not (growth.copies(id(out)) and growth.even(id(out))):
        return "chooses more entries, which must be copies"
    for other in flow.eq.graph.ops:
        ranks = other.kind == "scan" and other.attrs["how"] in HOW
        if ranks and other.inputs[0] is not op.inputs[0] and find(taken(other, flow.eq)) is out:
            return f"and {other.where} give one axis two orders"
    for w in flow.eq.graph.weights:
        if any(a is out for t in flow.eq.of(w) for a in atoms_of(t)):
            return f"gives an order that {w.name} has positions for"
    if op.attrs["how"] == "topk_index":
        return _computes(op, flow, among)
    return ""


def _computes(op: Op, flow: Flow, among: Term) -> str:
    """What computes with places instead of reading or writing there."""
    stack, seen = [op.output], {op.output}
    while stack:
        v = stack.pop()
        for user, i in v.uses:
            if _hands_on(user):
                if user.output not in seen:
                    seen.add(user.output)
                    stack.append(user.output)
            elif _READS.get(user.kind) != i:
                return f"gives numbers of experts that {user.where} computes with"
            elif find(flow.eq.of(user.inputs[0])[user.attrs["axis"]]) is not among:
                return f"gives numbers of experts by which {user.where} reads something else"
    return ""


def repeated(v: Value, flow: Flow, axis: int, old: Cell) -> object:
    """Cells of a result whose new blocks along one axis are copies; other new blocks are unknown."""

    def make(_: tuple[int, ...], fresh: tuple[tuple[int, int], ...]) -> Cell:
        if not fresh:
            return old
        twins = tuple(TRUE if a == axis and len(fresh) == 1 else FALSE for a, _ in fresh)
        return Cell(FALSE, twins, None, old.nonneg)

    return flow.build(v, make)
