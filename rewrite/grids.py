"""Images read in patches: what has to be larger where the image is.

A convolution whose kernel is its stride, or a reshape, reads a side of the image as (place, patch). The
places along both sides are the grid, and what follows sees it as an axis of tokens. Larger images have more
places: nothing is known of the function there, so nothing is proved of it. What is proved is that every
operator does with more places what it does with those of today, with each of them or with all together in
an attention or a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meristem.rewrite.axes import Term, atoms_of, factors_of, find
from meristem.rewrite.blocks import Growth
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.edits import BoundaryEdit, EditScript, LiteralEdit, WeightEdit
from meristem.rewrite.equations import Equations
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Graph, Input, Op, Value
from meristem.rewrite.lift import Lift
from meristem.rewrite.places import counted, only_read, same_for_all
from meristem.rewrite.registry import semantics
from meristem.rewrite.resizing import GRID, nearest
from meristem.rewrite.script import size_edits
from meristem.rewrite.semantics.elementwise import Row

SIDES = {2: "height", 3: "width"}
# These do with more places what they do with the old ones, whichever their axes are.
_PLAIN = ("contract", "conv", "reshape", "permute", "expand", "concat", "softmax", "full")
_MOVES = ("identity", "cast", "permute", "reshape", "expand", "slice", "concat")

Touches = Callable[[Term], bool]


@dataclass
class Images:
    """The sides of the images that a model reads, with the equations that know their grids.

    ``inner`` of a dimension is the atom of the grid along that side.
    """

    graph: Graph
    eq: Equations
    dimensions: list[Dimension]

    def script(self, sizes: Mapping[Term, int]) -> EditScript:
        """Larger grids, by the new sizes of their atoms: tables are interpolated, what counts places goes
        on, sizes and the interface follow."""
        growth = Growth(dict(sizes))
        grown: list[Sequence[Term]] = [
            factors_of(d.term) for d in self.dimensions if d.inner[0] in growth.sizes
        ]
        script = EditScript(sizes=size_edits(self.eq, growth))

        def axes(value: Value) -> list[int]:
            terms = enumerate(self.eq.of(value))
            return [a for a, t in terms if growth.size(t) != t.size]

        for w in self.graph.weights:
            along = axes(w)
            if along:
                lifts = tuple(Lift(_nested(t, growth, grown)) for t in self.eq.of(w))
                rule = GRID if w.is_float else "count"
                recipe = Expansion(w.name, lifts, rule=rule, along=tuple(along))
                script.weights.append(WeightEdit(w, recipe))
        for literal in self.graph.literals:
            for axis in axes(literal):
                size = growth.size(self.eq.of(literal)[axis])
                shape = [size if a == axis else n for a, n in enumerate(literal.shape)]
                assert literal.slot is not None  # else it is pinned
                data = np.arange(size, dtype=literal.data.dtype).reshape(shape)
                script.literals.append(LiteralEdit(literal.slot, data))
        named: list[tuple[str, Value, bool]] = [(v.name, v, False) for v in self.graph.inputs]
        for name, value, output in [*named, *((n, v, True) for n, v in self.graph.outputs)]:
            for axis in axes(value):
                t = self.eq.of(value)[axis]
                old = nearest(_nested(t, growth, grown))
                edge = BoundaryEdit(name, output, axis, old, growth.size(t), resized=True)
                script.interface.append(edge)
        return script


def _nested(t: Term, growth: Growth, sides: Sequence[Sequence[Term]]) -> Any:
    """A lift whose leaves are whole sides: factors that follow each other as in the image are one."""
    t = find(t)
    if t.kind == "cat":
        return ("cat", *(_nested(p, growth, sides) for p in t.parts))
    if t.kind == "atom":
        return ("atom", t.size, growth.size(t))
    out: list[Any] = []
    factors = factors_of(t)
    while factors:
        count = max([1, *(_common(factors, s) for s in sides)])
        first, rest = factors[:count], factors[count:]
        if count == 1:
            out.append(_nested(first[0], growth, sides))
        else:
            old, new = (int(np.prod([f(x) for x in first])) for f in (_today, growth.size))
            out.append(("atom", old, new))
        factors = rest
    return out[0] if len(out) == 1 else ("prod", *out)


def _today(t: Term) -> int:
    return t.size


def _common(factors: Sequence[Term], side: Sequence[Term]) -> int:
    """How many factors are the first ones of a side."""
    count = 0
    for x, y in zip(factors, side, strict=False):
        if find(x) is not find(y):
            break
        count += 1
    return count


def find_images(graph: Graph) -> Images:
    """Inputs [batch, channels, height, width] whose sides convolutions read, or reshapes cut in patches."""
    eq = Equations(graph, grids=True).solve()
    spatial = {find(t) for t in eq.spatial}
    out = Images(graph, eq, [])
    for v in graph.inputs:
        sides = [(axis, find(eq.of(v)[axis])) for axis in SIDES] if len(v.shape) == 4 else []
        if v.is_float and sides and all(t in spatial or t.kind == "prod" for _, t in sides):
            out.dimensions += [_dimension(graph, eq, v, axis, t) for axis, t in sides]
    return out


def _dimension(graph: Graph, eq: Equations, v: Input, axis: int, t: Term) -> Dimension:
    place = f"{v.name}.{SIDES[axis]}"
    side = factors_of(t) or [t]
    reason = "an operator reads a part of the grid by itself"
    names: tuple[tuple[str, int], ...] = ()
    if side[0].kind == "atom":
        touches = Growth({side[0]: side[0].size + 1}).touches
        held = [(w, a) for w in graph.weights for a, s in enumerate(eq.of(w)) if touches(s)]
        names = tuple((w.name, a) for w, a in held)
        reason = next(_obstacles(graph, eq, v, axis, side, touches), "")
    return Dimension(
        f"image@{place}", "image", t.size, place, names, reason or None, term=t, inner=(side[0],)
    )


def _obstacles(
    graph: Graph, eq: Equations, image: Input, axis: int, side: Sequence[Term], touches: Touches
) -> Iterator[str]:
    """Why a side of the grid cannot have more places."""
    if axis in image.dynamic:
        yield f"it varies already, as {image.dynamic[axis]}"
    yield from (p.reason for p in side[0].pins if not p.boundary)
    for v in graph.inputs:
        if v is not image and any(map(touches, eq.of(v))):
            yield f"it is an axis of the input {v.name} too"
    for op in graph.ops:
        if any(touches(t) for v in (*op.inputs, *op.outputs) for t in eq.of(v)):
            why = _refuses(op, eq, touches)
            if why:
                yield f"{op.where} {why}"
    for w in graph.weights:
        if not any(map(touches, eq.of(w))):
            continue
        if not w.is_float:
            if not only_read(w):
                yield f"{w.name} numbers the places, and not for reading tables alone"
        elif not _added(w):
            yield f"{w.name} holds numbers for each place, and only what is added can be interpolated"
        elif not _in_order(eq.of(w), side):
            yield f"{w.name} lies over the patches in another order than the image"
    for literal in graph.literals:
        if any(map(touches, eq.of(literal))) and not only_read(literal):
            yield f"the constant {literal.name} numbers the places, and not for reading tables alone"


def _refuses(op: Op, eq: Equations, touches: Touches) -> str:
    """Why an operator on the grid would not do with more places what it does today; empty: it would."""
    terms = eq.of(op.inputs[0]) if op.inputs else ()
    if op.kind in _PLAIN or isinstance(semantics(op.kind), Row):
        return ""
    if op.kind == "slice":
        part = op.attrs.get("dynamic") and touches(terms[op.attrs["axis"]])
        return "takes a part whose length is only known at run time" if part else ""
    if op.kind == "sum":
        more = not op.attrs["mean"] and any(touches(terms[a]) for a in op.attrs["axes"])
        return "sums over it, and more places would make the sum larger" if more else ""
    if op.kind == "norm":
        over = any(touches(terms[a]) for a in op.attrs["axes"])
        return "takes statistics over it" if over else ""
    if op.kind == "take":
        table = touches(terms[op.attrs["axis"]]) and counted(op) is None
        return "reads places of the grid by an index" if table else ""
    if op.kind == "range" and "end" in op.slots and op.attrs["step"] > 0:
        alike = only_read(op.output) or same_for_all(op.output, op.attrs["start"])
        return "" if alike else "counts the places, and what it counts is not the same for all"
    return "is not known to do with more places what it does with these"


def _added(value: Value) -> bool:
    """Do all who read a stored table add it, after moves at most?"""
    return all(
        op.kind == "add"
        or (op.kind in _MOVES and _added(op.output))
        or (op.kind == "take" and position == 0 and counted(op) is not None and _added(op.output))
        for op, position in value.uses
    )


def _in_order(terms: Sequence[Term], side: Sequence[Term]) -> bool:
    """Does a table that lies over the grid hold a side's factors as the image does, so that their
    neighbours are neighbours?"""
    inner = {find(f) for f in side[1:]}
    loose: list[Term] = []

    def visit(t: Term) -> None:
        t = find(t)
        if t.kind == "cat":
            for p in t.parts:
                visit(p)
            return
        factors = factors_of(t)
        while factors:
            count = max(1, _common(factors, side))
            if count == 1:
                loose.extend(a for a in atoms_of(factors[0]) if a in inner)
            factors = factors[count:]

    for t in terms:
        visit(t)
    return not loose
