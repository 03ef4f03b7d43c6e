"""What counts the places of a grid: constants 0, 1, 2, ... by which tables are read row by row."""

from __future__ import annotations

import numpy as np

from meristem.rewrite.graph import Array, Literal, Op, Value, Weight
from meristem.rewrite.registry import semantics

_MOVES = ("identity", "cast", "permute", "reshape", "expand")


def counted(op: Op) -> int | None:
    """The axis of the index along which ``take`` reads all rows of its table in their order; else None."""
    table, index = op.inputs[:2]
    n = table.shape[op.attrs["axis"]]
    axes = [a for a, size in enumerate(index.shape) if size == n and n > 1]
    data = _constant(index) if axes else None
    for axis in axes:
        if data is not None and _counts(data, axis):
            return axis
    return None


def _counts(data: Array, axis: int) -> bool:
    rows = np.moveaxis(data, axis, -1)
    return data.dtype.kind in "iu" and bool(np.all(rows == np.arange(rows.shape[-1])))


def is_count(literal: Literal) -> bool:
    """Is this a constant 0, 1, 2, ... along its one axis that is not one, which can be rewritten?"""
    axes = [a for a, n in enumerate(literal.shape) if n > 1]
    return len(axes) == 1 and literal.slot is not None and _counts(literal.data, axes[0])


def _constant(value: Value) -> Array | None:
    """What a value is in every run; None where that is not known."""
    if isinstance(value, Literal):
        return np.asarray(value.data)
    if isinstance(value, Weight):
        return None if value.is_float or value.role == "parameter" else np.asarray(value.array())
    op = value.producer
    if op is None or op.kind not in (*_MOVES, "range"):
        return None
    arrays = [_constant(v) for v in op.inputs]
    if any(a is None for a in arrays):
        return None
    out: Array = semantics(op.kind).evaluate(op, *arrays)[0]  # type: ignore[arg-type]
    return out


def only_read(value: Value) -> bool:
    """Do all who use a count of places read the rows of a table by it, after moves at most?"""
    return all(
        (op.kind == "take" and position == 1 and counted(op) is not None)
        or (op.kind in _MOVES and only_read(op.output))
        for op, position in value.uses
    )


def same_for_all(value: Value, low: float) -> bool:
    """Is what counts up from ``low`` only asked whether it is at least so much, as all places are?"""
    return all(_answers(op, position, low) for op, position in value.uses)


def _answers(op: Op, position: int, low: float) -> bool:
    if op.kind in _MOVES:
        return same_for_all(op.output, low)
    other = op.inputs[1 - position] if len(op.inputs) == 2 else None
    if not isinstance(other, Literal) or other.data.size != 1:
        return False
    by = float(other.data.flat[0])
    if op.kind == "add":
        return same_for_all(op.output, low + by)
    return position == 0 and (low >= by if op.kind == "ge" else op.kind == "gt" and low > by)
