"""The proof and its side effects in words, for plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from meristem.rewrite.edits import EditScript, LiteralEdit
from meristem.rewrite.flow import Flow
from meristem.rewrite.graph import Graph, Literal, Op, Weight
from meristem.rewrite.plan import Plan
from meristem.rewrite.planner import Solution


def describe(plan: Plan, solution: Solution, script: EditScript) -> None:
    """Fill a plan's proof, what it does not preserve, constants, locked twins and saddles."""
    met = Counter(f"{o.op.where} {o.why}: met" for o in solution.flow.obligations)
    plan.proof = [text if n == 1 else f"{text} ({n} blocks)" for text, n in met.items()]
    plan.constants = _constants(script, solution.eq.graph)
    plan.saddles = sorted({f"{op.where}" for op, _ in solution.saddles})
    plan.approximate += sorted({f"{f.op.where} {f.why}" for f in solution.flow.inexact})
    plan.locked = sorted(set(_locked(solution, script)))
    for choice, failures in solution.tried:
        used = ", ".join(sorted(set(choice.values())))
        plan.refusals.append(f"{used}: {failures[0].op.where} {failures[0].why}")


def _locked(solution: Solution, script: EditScript) -> Iterator[str]:
    """Weights with copies that stay equal under training: nothing reads them by unequal shares.

    New coordinates that another tensor fills are no copies.
    """
    flow, growth = solution.flow, solution.growth
    uneven = any(not e.expansion.split.even for e in script.weights)
    parted = set(flow.parted) if uneven else set()
    copied = {
        e.weight: {
            d.atom
            for blocks in flow.grid(e.weight)
            for b in blocks
            for d in b.digits
            if d.fresh and growth.copies(d.atom)
        }
        for e in script.weights
    }
    for e in script.weights:
        rounds = [int(a.replica().max()) for a in e.expansion.axes if a.grows]
        if e.expansion.blend and 0 < len(e.donors) >= max(rounds, default=0):
            own = {a for a in copied[e.weight] if not _only_shared(flow, e.weight, a)}
            parted |= own
    if any(e.expansion.maps for e in script.weights) and not _repeated(script):
        return  # combinations, which are no copies
    for w, atoms in copied.items():
        if atoms - parted:
            yield w.name


def _repeated(script: EditScript) -> bool:
    """Are two new coordinates the same combination, or one an old coordinate?"""
    for e in script.weights:
        for a in e.expansion.axes:
            if a.maps:
                rows = a.matrix(e.expansion.maps)
                if len(np.unique(np.round(rows, 9), axis=0)) < len(rows):
                    return True
    return False


def _only_shared(flow: Flow, w: Weight, atom: int) -> bool:
    """Do all axes of a weight that hold an atom share their entries among its copies?"""
    return all(
        flow.splits(w, axis, atom)
        for axis, blocks in enumerate(flow.grid(w))
        if any(d.atom == atom for b in blocks for d in b.digits)
    )


def _constants(script: EditScript, graph: Graph) -> list[str]:
    """What becomes of the program's constants, equal changes in one line."""
    literals = {id(v.slot): v for v in graph.literals if v.slot is not None}
    places: dict[str, dict[str, None]] = {}
    for e in script.literals:
        literal = literals[id(e.slot)]
        op = next(iter(literal.uses))[0]
        places.setdefault(_change(literal, op, e), {}).setdefault(op.where)
    return [f"{what} in {listed(list(where))}" for what, where in places.items()]


def _change(literal: Literal, op: Op, edit: LiteralEdit) -> str:
    if literal.data.size > 1:
        return f"indices of {literal.data.size} entries follow what they read"
    old, new = float(literal.data.flat[0]), float(np.asarray(edit.data).flat[0])
    if literal.implicit and old == new:
        return f"the default scale {old:.6g} is written out"
    if literal.implicit:
        return f"the scale {old:.6g}, taken for the default, becomes {new:.6g}"
    word = "epsilon" if op.kind == "norm" and op.inputs[1] is literal else "the constant"
    return f"{word} {old:.6g} becomes {new:.6g}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Some of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
