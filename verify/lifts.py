"""Where the old coordinates of any value of a graph sit in the grown one, by the proof of its growth.

The proof knows for every block of every value whether it is old, and the factor that old ones carry
(``rewrite.flow``, ``rewrite.scale``). Undoing both gives the original's value again, for all that the
growth keeps. Where the proof does not say it, nothing is given, and the value is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meristem.rewrite.cell import Cells
from meristem.rewrite.graph import Array, Value
from meristem.rewrite.planner import Solution
from meristem.rewrite.scale import TOLERANCE


class Lifts:
    """The values of one growth in width; without a ``solution`` nothing grows in width."""

    def __init__(self, solution: Solution | None) -> None:
        self.solution = solution
        self._values: dict[str, Value] = {}
        if solution is not None:
            self._values = {v.name: v for op in solution.eq.graph.ops for v in op.outputs}

    def undo(self, name: str, grown: Array) -> Array | None:
        """The original's value of that name, from the grown one's; None where the proof does not say."""
        if self.solution is None:
            return grown
        value = self._values.get(name)
        return None if value is None else _undo(self.solution, value, grown)


def _undo(solution: Solution, value: Value, grown: Array) -> Array | None:
    flow, growth = solution.flow, solution.growth
    terms, cells = solution.eq.of(value), flow.cells.get(value)
    if cells is None or grown.ndim != len(terms) or flow.shared.get(value):
        return None  # copies share the entries of what is ``shared``
    numbers: list[Array] = []
    for axis, t in enumerate(terms):
        if not growth.touches(t):  # its size may be dynamic; all its blocks are old and alike
            count = 1 if cells.shape[axis] == 1 else t.size
            blocks = growth.coordinates(t)[1]
            if count != 1 and grown.shape[axis] != t.size:
                return None
            numbers.append(blocks if count != 1 else np.zeros(1, np.int64))
            continue
        source, blocks = growth.coordinates(t)
        if len(source) != grown.shape[axis]:
            return None  # a dynamic part has another size than it was traced with
        old = np.flatnonzero(source >= 0)
        old = old[np.argsort(source[old], kind="stable")]
        grown = np.take(grown, old, axis)
        numbers.append(blocks[old])
    return grown if grown.dtype.kind != "f" else _unscaled(solution, cells, numbers, grown)


def _unscaled(solution: Solution, cells: Cells, numbers: Sequence[Array], old: Array) -> Array:
    """Old coordinates without their factors; ``numbers`` are those of the blocks of each."""
    logs = np.zeros(cells.shape)
    for index in np.ndindex(cells.shape):
        scale = cells[index].scale
        # Without a scale any fits: an old block is then zero, or hides what it is added to.
        logs[index] = solution.flow.scales.value(scale) if scale is not None else 0.0
    if np.all(np.abs(logs) <= TOLERANCE):
        return old
    return np.asarray(old / np.exp(logs[np.ix_(*numbers)]))


__all__ = ["Lifts"]
