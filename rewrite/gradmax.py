"""GradMax (arXiv:2201.05125): new units that are zero, behind which their gradient is as large as it can
be.

A new unit that computes zero changes nothing, whatever sums it. What moves it at the first step is the
gradient of what writes it, which is linear in the weights that sum it: for a unit that is summed by the
vector omega the gradient is M^t omega. Of all omega of one length those along the left singular vectors of
M make it largest. M is read from the model itself: one grows it by as many units as omega has entries, the
i-th summed by the i-th unit vector, and the gradients of what writes them are the rows of M. So whatever
lies between (norms, functions, windows) is accounted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.cell import ZERO
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.graph import Array, Weight
from meristem.rewrite.lift import generator
from meristem.rewrite.planner import Solution


@dataclass(frozen=True)
class Site:
    """New units of one dimension.

    ``writes`` makes them zero, as (weight, axis, block of new units there); ``sums`` reads them, as
    (weight, axis); ``others`` are weights with free entries for every unit, for which all units have to be
    alike.
    """

    atom: Term
    name: str
    count: int
    writes: tuple[tuple[Weight, int, int], ...]
    sums: tuple[tuple[Weight, int], ...]
    others: tuple[Weight, ...]

    @property
    def probes(self) -> int:
        """How many entries all that sums one unit has."""
        return sum(prod(w.shape) // w.shape[axis] for w, axis in self.sums)

    def probing(self) -> dict[str, tuple[Array, int]]:
        """New coordinates of ``probes`` units, one entry each, and their axis, for what sums them."""
        return self._placed(np.eye(self.probes))

    def matrix(self, probe: Solution, gradients: Mapping[str, Array]) -> Array:
        """M [entries that sum a unit, entries that write it], from the gradients of a probed model's
        weights.

        ``probe`` is its growth. Raises NotPreserved where no gradient reaches the new units.
        """
        rows = []
        for w, axis, block in self.writes:
            _, blocks = probe.growth.coordinates(probe.eq.of(w)[axis])
            own = np.moveaxis(gradients[w.name], axis, 0)[blocks == block]
            rows.append(own.reshape(self.probes, -1).astype(np.float64))
        m = np.concatenate(rows, axis=1)
        if not np.any(m):
            _refuse(self.name, "no gradient reaches them on these batches")
        return m

    def directions(self, m: Array, seed: int) -> dict[str, tuple[Array, int]]:
        """New coordinates of ``count`` units, and their axis, for every weight that sums.

        Left singular vectors, the largest first, each as long as what sums an old unit is in the mean.
        Units beyond the rank of M are drawn.
        """
        left, sizes, _ = np.linalg.svd(m, full_matrices=False)
        rank = int((sizes > 1e-9 * sizes[0]).sum())
        omega = left[:, :rank].T[: self.count]
        rng = generator(f"{seed}|{self.name}|gradmax")
        drawn = rng.standard_normal((self.count - len(omega), self.probes))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        rows = [np.moveaxis(w.array(), a, 0).reshape(w.shape[a], -1) for w, a in self.sums]
        old = np.concatenate(rows, axis=1).astype(np.float64)
        length = float(np.linalg.norm(old, axis=1).mean())
        return self._placed(length * np.concatenate([omega, drawn]))

    def _placed(self, rows: Array) -> dict[str, tuple[Array, int]]:
        """Vectors of units [units, probes] as new coordinates of the weights that sum them."""
        out: dict[str, tuple[Array, int]] = {}
        start = 0
        for w, axis in self.sums:
            n = prod(w.shape) // w.shape[axis]
            rest = [s for a, s in enumerate(w.shape) if a != axis]
            part = rows[:, start : start + n].reshape(len(rows), *rest)
            out[w.name] = np.moveaxis(part, 0, axis), axis
            start += n
        return out


def sites(solution: Solution, names: Mapping[Term, str]) -> list[Site]:
    """The new units of a growth whose strategy is ``incoming``, by dimension.

    Raises NotPreserved where they cannot be zero, where anything but weights sums them, or where no
    gradient passes a zero.
    """
    flow, growth = solution.flow, solution.growth
    writes: dict[Term, dict[tuple[Weight, int, int], None]] = {t: {} for t in growth.sizes}
    sums: dict[Term, dict[tuple[Weight, int], None]] = {t: {} for t in growth.sizes}
    others: dict[Term, dict[Weight, None]] = {t: {} for t in growth.sizes}
    for w in solution.eq.graph.weights:
        grid = flow.grid(w)
        for index in np.ndindex(*(len(g) for g in grid)):
            digits = flow.fresh_digits(grid, index)
            if len(digits) != 1 or w.role != "parameter":
                continue
            axis, atom = digits[0]
            t, block = growth.names[atom], grid[axis][index[axis]]
            together = block.size != growth.sizes[t] - t.size
            zero = ZERO in solution.assignment.held.get((w, index), set())
            if axis in flow.shared.get(w, ()) and not zero:
                if together or w.shape[axis] != t.size:
                    _refuse(names[t], f"{w.name} sums them together with other axes")
                sums[t][w, axis] = None
            elif zero:
                if together:
                    _refuse(names[t], f"{w.name} writes them together with other axes")
                writes[t][w, axis, index[axis]] = None
            else:
                others[t][w] = None
    stuck = {a for _, atoms in solution.saddles for a in atoms}
    for t in growth.sizes:
        if id(t) in stuck:
            _refuse(names[t], "no gradient passes a zero there (a relu, or a product of two zeros)")
        if not (sums[t] and writes[t]):
            _refuse(names[t], "they cannot be zero where they are summed by weights alone")
    return [
        Site(t, names[t], n - t.size, tuple(writes[t]), tuple(sums[t]), tuple(others[t]))
        for t, n in growth.sizes.items()
    ]


def _refuse(name: str, why: str) -> None:
    raise NotPreserved(
        f"gradmax needs new units of {name} that are zero and learn at once, but {why}; use "
        'method="preserve"',
        dimension=name,
        reason=why,
    )


__all__ = ["Site", "sites"]
