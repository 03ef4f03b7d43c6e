"""What bounds the length of a sequence: stored tables that are read from their start up to a dynamic end.

A position table, a causal mask or a vector of position ids of n entries serves sequences of at most n.
Where every reader takes a part from the start, or by an index that is never negative, more entries at the
end change nothing for the lengths that were possible before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from meristem.rewrite.axes import Term, find
from meristem.rewrite.continuation import continued, rule_of
from meristem.rewrite.edits import LiteralEdit, SizeEdit
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight

_MOVES = ("identity", "cast", "permute", "reshape", "expand", "slice")


@dataclass
class Reads:
    """Who reads a stored tensor along one axis: is it all open (from the start, or by an index), and is
    any reader's part as long as the sequence? ``sizes`` are operators that state the axis' size."""

    open: bool = True
    bounded: bool = False
    sizes: tuple[tuple[Op, int], ...] = ()


def reads(value: Value, axis: int, out: Reads | None = None) -> Reads:
    """Follow one axis of a value to what reads it."""
    out = out or Reads()
    for op, position in value.uses:
        if position == 0 and op.kind in ("take", "take_along") and op.attrs["axis"] == axis:
            out.bounded = True
        elif op.kind == "slice" and op.attrs["axis"] == axis:
            from_start = op.attrs["start"] == 0 and op.attrs.get("step", 1) == 1
            if op.attrs.get("dynamic") and from_start:
                out.bounded = True
            else:
                out.open = False
        else:
            after = _moved(op, axis) if position == 0 else None
            if after is None:
                out.open = False
                continue
            if op.kind in ("expand", "reshape") and "shape" in op.slots:
                out.sizes = (*out.sizes, (op, after))
            reads(op.output, after, out)
    return out


def _moved(op: Op, axis: int) -> int | None:
    """Where an axis is after an operator that only moves coordinates; None where it is no axis there."""
    shape = op.inputs[0].shape
    if op.kind not in _MOVES:
        return None
    if op.kind == "permute":
        return int(op.attrs["perm"].index(axis))
    if op.kind == "expand":
        return axis + len(op.output.shape) - len(shape)
    if op.kind == "reshape":
        old = [a for a, n in enumerate(shape) if n != 1]
        new = [a for a, n in enumerate(op.output.shape) if n != 1]
        same = [shape[a] for a in old] == [op.output.shape[a] for a in new]
        return new[old.index(axis)] if same and axis in old else None
    return axis


def counts(index: Value) -> bool:
    """Does an index count positions: 0, 1, 2, ... along one axis, shifted or masked at most?"""
    if isinstance(index, Literal):
        axes = [a for a, n in enumerate(index.shape) if n > 1]
        varies = [a for a in axes if np.any(np.diff(index.data, axis=a))]
        return len(varies) == 1 and bool(np.all(np.diff(index.data, axis=varies[0]) == 1))
    op = index.producer
    if op is None:
        return False
    if op.kind == "range" or (op.kind == "scan" and op.attrs.get("how") == "cumsum"):
        return True
    if op.kind in _MOVES or op.kind in ("add", "sub", "mul"):
        return any(counts(v) for v in op.inputs)
    return False


def companions(
    graph: Graph, eq: Equations, lengths: Mapping[int, int], atoms: Mapping[Term, int]
) -> dict[Term, int]:
    """Axes of stored masks and tables that would hold a sequence to its old length.

    ``lengths`` are old and new sizes of the positions that grow. Only what is not trained grows along:
    learned tables are dimensions that a request names.
    """
    out: dict[Term, int] = {}
    for w in graph.weights:
        for axis, n in enumerate(w.shape):
            new = _new(n, lengths)
            t = find(eq.of(w)[axis])
            if w.role == "parameter" or new is None or t in atoms or t.kind != "atom" or t.pins:
                continue
            found = reads(w, axis)
            if found.open and found.bounded:
                out[t] = new
    return out


def _new(n: int, lengths: Mapping[int, int]) -> int | None:
    """What an axis of ``n`` becomes: as long as the longest table that it would hold back."""
    sizes = [new for old, new in lengths.items() if old <= n < new]
    return max(sizes, default=None)


@dataclass(frozen=True)
class Longer:
    """What makes one constant longer: its new entries, the sizes that operators state of it, in words."""

    literal: LiteralEdit
    sizes: list[SizeEdit]
    words: str


def literal_edits(graph: Graph, lengths: Mapping[int, int]) -> list[Longer]:
    """Constants that bound the length (position ids, token types, masks) go on by their own rule.

    Raises NotPreserved where one has none.
    """
    bounds: dict[Literal, dict[int, int]] = {}
    sizes: dict[Literal, list[SizeEdit]] = {}
    folded = {id(v): (v, axis) for v, axis in graph.bounds}
    for literal in graph.literals:
        if literal.slot is None or id(literal) in folded:
            continue
        for axis, n in enumerate(literal.shape):
            new = _new(n, lengths)
            if new is None:
                continue
            found = reads(literal, axis)
            if found.open and found.bounded:
                bounds.setdefault(literal, {})[axis] = new
                sizes.setdefault(literal, []).extend(
                    SizeEdit(op.slots["shape"], a, n, new)
                    for op, a in found.sizes
                    if "entries" not in op.attrs
                )
    for literal, axis in graph.bounds:
        new = _new(literal.shape[axis], lengths)
        if new is not None:
            bounds.setdefault(literal, {})[axis] = new
    edits = []
    for literal, grown in bounds.items():
        assert literal.slot is not None
        rule = rule_of(literal.data, list(grown))
        if not rule:
            raise NotPreserved(
                f"positions cannot grow: the constant {literal.name} of shape {literal.shape} is read up "
                "to the length of the sequence, and its entries follow no rule by which they could go on "
                "(an arange, one number, a mask by distance); make it longer before tracing",
                constant=literal.name,
            )
        data = continued(literal.data, grown, rule).astype(literal.data.dtype)
        words = f"a constant of shape {literal.shape} goes on to {data.shape} by its rule ({rule})"
        edits.append(Longer(LiteralEdit(literal.slot, data), sizes.get(literal, []), words))
    return edits


def growing_rule(w: Weight, axes: list[int], *, stretch: bool) -> str:
    """How a stored table goes on along the axes of its positions; empty: new entries are drawn.

    Raises NotPreserved for what is not trained and follows no rule.
    """
    if stretch and w.role == "parameter" and w.is_float:
        return "stretch"
    rule = rule_of(np.asarray(w.array()), axes)
    if w.role == "parameter":
        return (
            "" if rule == "same" else rule
        )  # a learned table that is constant was just initialised
    if not rule:
        raise NotPreserved(
            f"positions cannot grow: {w.name} is stored, not trained, and its entries follow no rule by "
            "which they could go on (an arange, one number, a mask by distance, sines and cosines); give "
            f'them with given={{"{w.name}": ...}}, or make it longer before tracing',
            weight=w.name,
        )
    return rule
