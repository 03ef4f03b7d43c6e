"""What a program accepts: types, sizes and ranges of its inputs, read off the view.

An integer input that reaches an index through moves and arithmetic with constants must stay inside
the axis that it indexes; one that is only compared or cast is a mask; the rest take the values that
the example inputs had.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np

from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Input, Literal, Op, Value

_MOVES = frozenset(("identity", "cast", "reshape", "permute", "expand", "slice", "concat"))
_INDEXED = {"take": 1, "take_along": 1, "take_many": 1}  # position of the first index operand


@dataclass(frozen=True)
class Field:
    """One input. ``shape`` holds numbers and symbols (or expressions of symbols).

    ``use`` is ``float``, ``index`` (integers from ``low`` to ``high``), ``mask`` (zeros and ones, the
    first of every row a one) or ``integer``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    traced: tuple[int, ...]
    use: str
    low: int = 0
    high: int = 1


def fields(graph: Graph, examples: Mapping[str, Any] | None = None) -> list[Field]:
    """The inputs of a view. ``examples`` give the range of integers that nothing else bounds."""
    return [_field(v, (examples or {}).get(v.name)) for v in graph.inputs]


def _field(v: Input, example: Any) -> Field:
    shape = tuple(v.dynamic.get(i, n) for i, n in enumerate(v.shape))
    if v.is_float:
        return Field(v.name, v.dtype, shape, v.shape, "float")
    bounds = list(_bounds(v, Fraction(1), Fraction(0), set()))
    if bounds and v.dtype != "bool":
        low = max(ceil(a) for a, _ in bounds)
        high = min(floor(b) for _, b in bounds)
        return Field(v.name, v.dtype, shape, v.shape, "index", low, max(low, high))
    if v.dtype != "bool" and example is not None and np.size(example) and not _is_mask(example):
        low, high = int(np.min(example)), int(np.max(example))
        return Field(v.name, v.dtype, shape, v.shape, "integer", low, high)
    return Field(v.name, v.dtype, shape, v.shape, "mask")


def _is_mask(example: Any) -> bool:
    return bool(np.all((np.asarray(example) == 0) | (np.asarray(example) == 1)))


def _bounds(
    v: Value, a: Fraction, b: Fraction, seen: set[tuple[Value, Fraction, Fraction]]
) -> Iterator[tuple[Fraction, Fraction]]:
    """Ranges of the input x that keep every index a x + b inside the axis it reads."""
    if (v, a, b) in seen or a == 0:
        return
    seen.add((v, a, b))
    for op, position in v.uses:
        first = _INDEXED.get(op.kind)
        if first is not None and position >= first:
            axis = op.attrs["axes"][position - 1] if op.kind == "take_many" else op.attrs["axis"]
            ends = (0 - b) / a, (op.inputs[0].shape[axis] - 1 - b) / a
            yield min(ends), max(ends)
        elif op.kind in _MOVES and not op.output.is_float and op.output.dtype != "bool":
            for out in op.outputs:
                yield from _bounds(out, a, b, seen)
        elif op.kind == "where" and position > 0:
            yield from _bounds(op.output, a, b, seen)
        else:
            moved = _arithmetic(op, position, a, b)
            if moved is not None:
                yield from _bounds(op.output, *moved, seen)


def _arithmetic(
    op: Op, position: int, a: Fraction, b: Fraction
) -> tuple[Fraction, Fraction] | None:
    """a x + b after a sum, difference or product with one number."""
    if op.kind not in ("add", "sub", "mul") or op.output.is_float or len(op.inputs) != 2:
        return None
    other = op.inputs[1 - position]
    if not isinstance(other, Literal) or other.data.size != 1:
        return None
    n = Fraction(int(other.data.ravel()[0]))
    if op.kind == "mul":
        return a * n, b * n
    if op.kind == "add":
        return a, b + n
    return (a, b - n) if position == 0 else (-a, n - b)


def class_outputs(graph: Graph, eq: Equations) -> frozenset[str]:
    """Outputs whose last axis counts classes: a weight makes it, and nothing sums or normalises over it."""
    summed = {t for op in graph.ops for t in _summed(op, eq)}
    made = {t for w in graph.weights for a in eq.of(w) for t in atoms_of(a) if t.size > 1}
    out = []
    for name, v in graph.outputs:
        atoms = set(atoms_of(eq.of(v)[-1])) if v.is_float and len(v.shape) > 1 else set()
        if atoms & made and not atoms & summed:
            out.append(name)
    return frozenset(out)


def _summed(op: Op, eq: Equations) -> Iterator[Term]:
    """Atoms of the axes over which an operator mixes coordinates; a softmax over classes is none."""
    if op.kind == "contract":
        *given, kept = op.attrs["labels"]
        for v, labels in zip(op.inputs, given, strict=True):
            for axis, label in zip(eq.of(v), labels, strict=True):
                yield from atoms_of(axis) if label not in kept else ()
    elif op.kind in ("norm", "sum"):
        for a in op.attrs["axes"]:
            yield from atoms_of(eq.of(op.inputs[0])[a])


def symbols(found: list[Field]) -> dict[str, list[tuple[Field, int]]]:
    """Base symbols of dynamic axes -> where they stand alone or in an expression."""
    out: dict[str, list[tuple[Field, int]]] = {}
    for f in found:
        for axis, n in enumerate(f.shape):
            for name in _names(n) if isinstance(n, str) else ():
                out.setdefault(name, []).append((f, axis))
    return out


def _names(text: str) -> list[str]:
    """The symbols of an expression; a text that is none is a symbol itself."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return [text]
    if isinstance(tree, ast.Attribute):
        return [text]
    called = {n.func for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called]


__all__ = ["Field", "class_outputs", "fields", "symbols"]
