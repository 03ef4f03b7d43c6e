"""From a solution to an edit script: recipes of weights, new sizes, literals, norms, boundaries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np

from meristem.rewrite.axes import Term, atoms_of, find
from meristem.rewrite.blocks import Growth, source_block
from meristem.rewrite.cell import OPPOSITE, PAIR, POSITIVE, TWIN, ZERO
from meristem.rewrite.edits import (
    BoundaryEdit,
    EditScript,
    LiteralEdit,
    SizeEdit,
    StatisticsEdit,
    WeightEdit,
)
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.expansion import EVEN, Expansion, Fill, Split
from meristem.rewrite.flow import Flow
from meristem.rewrite.given import Givens
from meristem.rewrite.graph import Graph, Literal, Weight
from meristem.rewrite.lift import Lift
from meristem.rewrite.limits import growing_rule
from meristem.rewrite.noise import quiet_blocks
from meristem.rewrite.planner import Solution
from meristem.rewrite.registry import semantics
from meristem.rewrite.scale import TOLERANCE
from meristem.rewrite.sizes import Sizes


def edit_script(
    solution: Solution,
    *,
    seed: int = 0,
    split: Split = EVEN,
    given: Givens | None = None,
    lengths: Collection[Term] = (),
    stretch: bool = False,
) -> EditScript:
    """Everything that the carrier must change, in a fixed order; ``split`` is how copies share weights,
    ``given`` what free entries hold, ``lengths`` the atoms of positions, whose tables go on by their own
    rule where they have one, or by ``stretch`` are interpolated."""
    graph, flow = solution.eq.graph, solution.flow
    script = EditScript()
    script.sizes = size_edits(solution.eq, solution.growth)
    script.literals = _literals(graph, flow)
    for w in graph.weights:
        recipe = expansion(w, solution, seed, split, mean=given is not None and given.takes_mean(w))
        if given is not None and given.names(w):
            recipe = given.apply(w, recipe)
        elif lengths and recipe.changes:
            recipe = _going_on(w, recipe, solution, set(lengths), stretch=stretch)
        if recipe.changes:
            script.weights.append(WeightEdit(w, recipe))
    for op in flow.statistics:
        axis = op.attrs["axes"][-1]
        term = solution.eq.of(op.inputs[0])[axis]
        source, _ = solution.growth.coordinates(term)
        if len(op.attrs["axes"]) > 1:
            raise NotPreserved(
                f"{op.where} would take statistics over old coordinates, but it normalises several axes "
                "at once; leave the dimensions that it reads out of the request, or try a whole multiple "
                'with compensate="weights", which may copy coordinates',
                op=op.origin,
                place=op.place,
            )
        script.statistics.append(StatisticsEdit(op, axis, np.flatnonzero(source >= 0), len(source)))
    script.boundary = _boundary(graph, solution) if flow.boundary == "crop" else []
    script.interface = _boundary(graph, solution) if flow.boundary == "grow" else []
    return script


def _going_on(
    w: Weight, recipe: Expansion, solution: Solution, lengths: set[Term], *, stretch: bool
) -> Expansion:
    """A table that grows in positions goes on by its rule."""
    terms = solution.eq.of(w)
    axes = [a for a, t in enumerate(terms) if recipe.axes[a].grows and lengths & set(atoms_of(t))]
    rule = growing_rule(w, axes, stretch=stretch) if axes else ""
    if rule == "stretch" and any(find(terms[a]).kind != "atom" for a in axes):
        raise NotPreserved(
            f"{w.name} cannot be interpolated: a part of fixed length is read, so the length is not "
            "dynamic; trace with a dynamic sequence axis (dynamic_shapes)",
            weight=w.name,
        )
    return replace(recipe, rule=rule, along=tuple(axes)) if rule else recipe


def expansion(
    w: Weight, solution: Solution, seed: int = 0, split: Split = EVEN, *, mean: bool = False
) -> Expansion:
    """The recipe of one weight; with ``mean`` its free blocks are means over their first fresh digit.

    Blocks are numbered over the pieces that growth makes; factors of the flow are numbered over all
    pieces, so they are mapped by position. Shares of an axis come after all else, so their blocks have no
    numbers in the recipe.
    """
    eq, flow, growth = solution.eq, solution.flow, solution.growth
    grid = flow.grid(w)
    number = [_unshared(flow, w, axis) for axis in range(len(grid))]
    scales_of = flow.weight_scales.get(w)
    # Recipes must see the same blocks as the flow: keep the structure wherever a factor differs.
    values: dict[tuple[int, ...], float] = {}
    fills: dict[tuple[int, ...], Fill] = {}
    for index in np.ndindex(*(len(g) for g in grid)):
        if any(i not in n for i, n in zip(index, number, strict=True)):
            continue
        at = _renumbered(index, number)
        digits = flow.fresh_digits(grid, index)
        if digits:
            fill = _fill(solution, w, index, digits, number)
            if mean and fill == Fill("free"):
                source = _renumbered(source_block(grid, index, 0), number)
                fill = Fill("mean", 0, source)
            fills[at] = fill
        elif scales_of is not None and scales_of[index] is not None:
            v = flow.scales.value(scales_of[index])
            if abs(v) > TOLERANCE:
                values[at] = v
    shared = flow.shared.get(w, frozenset())
    axes = tuple(lift(t, growth, shared=a in shared) for a, t in enumerate(eq.of(w)))
    progression = None
    if w.role != "parameter" and w.is_float and sum(n > 1 for n in w.shape) == 1:
        progression = next(i for i, n in enumerate(w.shape) if n > 1)
    if not any(a.shares for a in axes):
        split = EVEN
    quiet = quiet_blocks(w, solution) if split.noise else set()
    return Expansion(
        w.name, axes, fills, values, flow.shifts.get(w, 0.0), seed, progression, split,
        quiet=tuple(sorted(_renumbered(i, number) for i in quiet)),
    )  # fmt: skip


def lift(term: Term, growth: Growth, *, shared: bool = False) -> Lift:
    """The serialisable form of an axis under a growth; copied atoms of a ``shared`` axis are shared.

    Every piece is kept, also where nothing grows, so that its blocks are numbered as the flow's are.
    """

    def nested(t: Term) -> Any:
        t = find(t)
        if t.kind != "atom":
            return (t.kind, *(nested(p) for p in t.parts))
        new = growth.sizes.get(t, t.size)
        if t in growth.sizes and growth.copies(id(t)):
            return ("share" if shared else "copy", t.size, new, growth.key(t))
        return ("atom", t.size, new)

    return Lift(nested(term))


def _unshared(flow: Flow, w: Weight, axis: int) -> dict[int, int]:
    """Numbers among themselves of the blocks of an axis that are no shares."""
    kept = [
        i
        for i, b in enumerate(flow.grid(w)[axis])
        if not any(d.fresh and flow.splits(w, axis, d.atom) for d in b.digits)
    ]
    return {i: n for n, i in enumerate(kept)}


def _renumbered(index: tuple[int, ...], number: Sequence[dict[int, int]]) -> tuple[int, ...]:
    return tuple(n[i] for i, n in zip(index, number, strict=True))


def _fill(solution: Solution, w: Weight, index: tuple[int, ...], digits: Any, number: Any) -> Fill:
    held = solution.assignment.held.get((w, index), set())
    if ZERO in held:
        return Fill("zero")
    twins = sorted(p for p in held if p.startswith(TWIN))
    if twins:
        k = int(twins[0].removeprefix(TWIN))
        _, atom = digits[k]
        growth = solution.growth
        kind = "copy" if growth.copies(atom) else growth.strategy(atom)
        source = _renumbered(source_block(solution.flow.grid(w), index, k), number)
        return Fill(kind, k, source, key=growth.key(growth.names[atom]))
    pairs = [(int(p.removeprefix(PAIR)), 1) for p in held if p.startswith(PAIR)]
    pairs += [(int(p.removeprefix(OPPOSITE)), -1) for p in held if p.startswith(OPPOSITE)]
    return Fill("positive" if POSITIVE in held else "free", pairs=tuple(sorted(pairs)))


def size_edits(eq: Equations, growth: Growth) -> list[SizeEdit]:
    """Sizes that operators state, where they change. Raises NotPreserved for one that would be two."""
    sizes = Sizes(eq, growth)
    out: dict[tuple[Any, Any, int | None], SizeEdit] = {}
    for op in eq.graph.ops:
        for edit in semantics(op.kind).sizes(op, sizes):
            key = (edit.slot.native, _hashable(edit.slot.role), edit.index)
            known = out.setdefault(key, edit)
            if known.new != edit.new:
                raise NotPreserved(
                    f"{op.where} states one size for two axes that grow differently",
                    op=op.origin,
                    place=op.place,
                )
    return list(out.values())


def _hashable(role: Any) -> Any:
    return tuple(role) if isinstance(role, list) else role


def _literals(graph: Graph, flow: Flow) -> list[LiteralEdit]:
    out = []
    for literal in graph.literals:
        if literal.slot is None:
            continue
        data = literal.data
        change = literal in flow.literal_scales
        factor = flow.scales.value(flow.literal_scales[literal]) if change else 0.0
        if abs(factor) > TOLERANCE:
            out.append(LiteralEdit(literal.slot, np.asarray(data, np.float64) * exp(factor)))
        elif literal.implicit and _scores_grow(literal, flow):
            out.append(LiteralEdit(literal.slot, _scale(literal, flow)))
    for literal, term in flow.remapped:
        source, _ = flow.growth.coordinates(term)
        place = np.full(term.size, -1)
        place[source[source >= 0]] = np.flatnonzero(source >= 0)
        assert literal.slot is not None
        out.append(LiteralEdit(literal.slot, place[literal.data % term.size]))
    return out


def _scores_grow(literal: Literal, flow: Flow) -> bool:
    """Does the contraction whose result the literal scales sum over a grown axis?"""
    contraction = literal.uses[0][0].inputs[0].producer
    assert contraction is not None
    return any(flow.growth.touches(t) for t in flow.eq.of(contraction.inputs[0])[-1:])


def _scale(literal: Literal, flow: Flow) -> Any:
    """An operator's default scale is made explicit; with weights alone it follows the new size."""
    contraction = literal.uses[0][0].inputs[0].producer
    assert contraction is not None
    if flow.compensate == "weights":
        term = flow.eq.of(contraction.inputs[0])[-1]
        return np.asarray(flow.growth.size(term) ** -0.5)
    return np.asarray(literal.data, np.float64)


def _boundary(graph: Graph, solution: Solution) -> list[BoundaryEdit]:
    out = []
    named = [(v.name, v, False) for v in graph.inputs] + [(n, v, True) for n, v in graph.outputs]
    for name, value, is_output in named:
        for axis, t in enumerate(solution.eq.of(value)):
            if solution.growth.touches(t) and solution.growth.size(t) != t.size:
                source, _ = solution.growth.coordinates(t)
                old = np.flatnonzero(source >= 0)
                out.append(BoundaryEdit(name, is_output, axis, old, len(source)))
    return out
