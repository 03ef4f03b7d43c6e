"""Every dimension with its proof: strategies, the obligations that were met for it, its weights.

``table`` gives what the page embeds. Texts that repeat are kept once and named by number, so that ten
thousand dimensions stay a page of a megabyte or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meristem.pages.growth import Growth
from meristem.pages.words import FILLS, how, shape
from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph
from meristem.rewrite.methods import method

# Weights of one dimension that a page lists; the plan has all.
MOST_WEIGHTS = 40
_STATES = ("grown", "new", "free", "pinned")


class _Texts:
    """Texts by number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    @property
    def all(self) -> list[str]:
        return list(self.numbers)


def table(
    dimensions: Sequence[Dimension], growth: Growth, obligations: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """JSON-ready rows [name, before, after, state, why, weights, proof, number of weights].

    Grown ones stand first. ``before`` is null where a new block brought the dimension; ``state`` is
    grown, new, free or pinned; why and proof are numbers of ``texts``, weights are pairs of a number of
    ``weights`` and an axis. ``obligations`` maps names of dimensions to lines of the proof
    (``obligations_of``).
    """
    texts, weights = _Texts(), _Texts()
    depth = method(growth.plan.method).depth if growth.plan else "identity"
    rows = []
    for d in dimensions:
        name, before = growth.name(d), growth.before(d)
        change = growth.changes.get(name or "")
        why = d.pinned or ""
        if change is not None and change.after != change.before:
            state, why = "grown", how(d.kind, change.strategies, depth)
        elif before is None:
            state, why = "new", "a new block brought it"
        else:
            state = "free" if d.pinned is None else "pinned"
        flat = [x for n, axis in d.weights[:MOST_WEIGHTS] for x in (weights(n), axis)]
        proof = (
            [texts(line) for line in obligations.get(name or "", ())] if state == "grown" else []
        )
        rows.append([d.name, before, d.size, state, texts(why), flat, proof, len(d.weights)])
    rows.sort(key=lambda row: _STATES.index(row[3]))
    return {"texts": texts.all, "weights": [_weight(n, growth) for n in weights.all], "rows": rows}


def _weight(name: str, growth: Growth) -> list[str]:
    """A weight's name, and what became of it."""
    if name in growth.fresh:
        return [name, "new with a new block"]
    found = growth.shapes(growth.old_name(name))
    if found is None:
        return [name, ""]
    old, new, fills = found
    sizes = f"{shape(old)} → {shape(new)}" if old != new else shape(new)
    held = ", ".join(FILLS.get(f, f) for f in fills)
    return [name, f"{sizes}; new entries: {held}" if held else sizes]


def obligations_of(
    graph: Graph, eq: Equations, dimensions: Sequence[Dimension], proof: Sequence[str]
) -> dict[str, list[str]]:
    """Lines of the proof by the names of the dimensions that they are about.

    A line names an operator and its place. It is about the axes that are summed there, which the result
    lacks; where none is (a norm), about all that are read.
    """
    lines: dict[str, list[str]] = {}
    for line in proof:
        words = line.split(" ")
        where = " ".join(words[:3]) if words[1:2] == ["in"] else words[0]
        lines.setdefault(where, []).append(line)
    owners: dict[Term, list[str]] = {}
    for d in dimensions:
        for a in atoms_of(d.term):
            if a.size > 1:
                owners.setdefault(a, []).append(d.name)
    summed: dict[str, set[Term]] = {}
    read: dict[str, set[Term]] = {}
    for op in graph.ops if lines else ():
        if op.where in lines:
            ins = {a for v in op.inputs for t in eq.of(v) for a in atoms_of(t)}
            outs = {a for v in op.outputs for t in eq.of(v) for a in atoms_of(t)}
            summed.setdefault(op.where, set()).update(ins - outs)
            read.setdefault(op.where, set()).update(ins)
    out: dict[str, dict[str, None]] = {}
    for where, about in lines.items():
        atoms = [a for a in summed.get(where, ()) if a in owners] or read.get(where, ())
        for name in {n for a in atoms for n in owners.get(a, ())}:
            out.setdefault(name, {}).update(dict.fromkeys(about))
    return {name: list(found) for name, found in out.items()}


__all__ = ["obligations_of", "table"]
