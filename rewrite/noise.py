"""Where the noise of shares has to be left out.

Shares of one entry sum to it, so noise among them cancels where what meets them is equal. That is required
of what old entries meet. In fresh blocks it need not hold, and then the proof says of shares what it says
of the entries: that rows repeat others or come in halves. Noise, which differs from entry to entry, would
make that untrue, so there it is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from meristem.rewrite.graph import Op, Value, Weight
from meristem.rewrite.planner import Solution
from meristem.rewrite.shares import contracted

Index = tuple[int, ...]
Key = tuple[int, ...]  # atoms of the fresh parts of a block


def quiet_blocks(w: Weight, solution: Solution) -> set[Index]:
    """Blocks of ``w`` with fresh parts, before its axes are shared, whose shares must not differ.

    Blocks are told by the atoms of their fresh parts: two with the same are both quiet, if one has to be.
    """
    flow = solution.flow
    found = {key for v, op, side in _readers(w) for key in _unequal(v, op, side, solution)}
    grid = flow.grid(w)
    blocks = {index: flow.fresh_digits(grid, index) for index in np.ndindex(*map(len, grid))}
    return {
        index
        for index, digits in blocks.items()
        if _key(digits) in found and not any(flow.splits(w, *d) for d in digits)
    }


def _readers(v: Value) -> Iterator[tuple[Value, Op, int]]:
    """What sums a stored tensor, as it is or moved, and in which operand."""
    for op, side in v.uses:
        if contracted(op) is not None and side < 2:
            yield v, op, side
        else:
            for out in op.outputs:
                yield from _readers(out)


def _unequal(v: Value, op: Op, side: int, solution: Solution) -> Iterator[Key]:
    """Keys of blocks of one operand whose replicas are not proved to meet equal values."""
    flow, labels = solution.flow, contracted(op)
    assert labels is not None, op
    own, grid = labels[side], flow.grid(v)
    for index in np.ndindex(*map(len, grid)):
        digits = flow.fresh_digits(grid, index)
        split = [d for d in digits if flow.splits(v, *d)]
        rest = [d for d in digits if d not in split]
        if split and rest:
            where = dict(zip(own, index, strict=True))
            if not _meets_copies(op, side, where, {(own[a], atom) for a, atom in split}, solution):
                yield _key(rest)


def _meets_copies(
    op: Op, side: int, where: dict[int, int], split: set[tuple[int, int]], solution: Solution
) -> bool:
    """Is the other operand, in all blocks that meet this one, proved to repeat what it holds? Not where
    no block of it meets this one: then their axes are cut into other pieces."""
    flow, labels = solution.flow, contracted(op)
    assert labels is not None, op
    other, x = labels[1 - side], op.inputs[1 - side]
    grid, met = flow.grid(x), False
    for at in np.ndindex(*map(len, grid)):
        if any(where.get(k, i) != i for k, i in zip(other, at, strict=True)):
            continue
        met = True
        cell = flow.of(x)[at]
        fresh = flow.fresh_digits(grid, at)
        twins = [
            t for t, (a, atom) in zip(cell.twins, fresh, strict=True) if (other[a], atom) in split
        ]
        if len(twins) < len(split) or not all(solution.assignment.holds(t) for t in twins):
            return False
    return met


def _key(digits: Sequence[tuple[int, int]]) -> Key:
    return tuple(sorted(atom for _, atom in digits))
