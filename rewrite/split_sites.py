"""What a residual split changes at each of its places: the predicted error beside the measured one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Array, Graph, Literal, Value, Weight
from meristem.rewrite.interpret import Native, evaluate, run, wide
from meristem.rewrite.methods import Chosen
from meristem.rewrite.split import Unit, folded, units
from meristem.rewrite.stacks import Stack

# Central differences along a branch move the stream by this part of its size.
_STEP = 1e-5


@dataclass(frozen=True)
class Site:
    """One split block or sub-layer: the error at its exit, relative to the largest value there."""

    unit: str
    times: int
    predicted: float
    measured: float

    def __str__(self) -> str:
        return (
            f"{self.unit} as {self.times}: predicted error {self.predicted:.2e} "
            f"(first order), measured {self.measured:.2e}"
        )


def sites(
    graph: Graph,
    eq: Equations,
    targets: Mapping[Stack, int],
    chosen: Chosen,
    inputs: Mapping[str, Array],
    native: Native | None = None,
) -> list[Site]:
    """The predicted and the measured error of what is split, each from the original's own stream.

    ``inputs`` are by name, of the sizes that the graph was built for. In float64, by the interpreter, which
    leaves to ``native`` what has no semantics.
    """
    held: dict[Value, Array] = {}
    run(graph, inputs, watch=held.__setitem__, native=native)
    held |= {v: wide(v, inputs[v.name]) for v in graph.inputs}
    found = units(graph, eq, targets, chosen)
    weights = {} if chosen.explicit else folded(found)
    return [_Unit(u, held, weights, chosen.explicit, native).site() for u in found]


@dataclass
class _Unit:
    """What is split as a function of the stream, everything outside as it was.

    ``weights`` carry 1/k where it is folded; ``explicit``: every branch is multiplied by it.
    """

    unit: Unit
    held: Mapping[Value, Array]
    weights: Mapping[Weight, tuple[int, float]]
    explicit: bool
    native: Native | None = None

    def __post_init__(self) -> None:
        self.inside = frozenset(self.unit.block.ops)
        self.branches = frozenset(v for r in self.unit.sums for v in r.branches)

    def site(self) -> Site:
        """The error of k steps beside (k - 1) / (2 k) J_F F, the latter as the exit shows it."""
        block, k, count = self.unit.block, self.unit.times, len(self.unit.sums)
        x = self.held[block.entry]
        z = x
        for _ in range(k):
            z = self._value(block.exit, {block.entry: z}, split=True).reshape(x.shape)
        y = self.held[block.exit].reshape(x.shape)
        at_x = [self.branch(a, x) for a in range(count)]
        terms = np.zeros_like(x)
        for a in range(count):
            terms += self.along(a, x, at_x[a])
            for b in range(a + 1, count):
                terms += self.along(a, x, at_x[b]) - self.along(b, x, at_x[a])
        last = self.unit.sums[-1].op.output
        moved = self.held[last] + (k - 1) / (2 * k) * terms.reshape(last.shape)
        there = self._value(block.exit, {last: moved}, split=False).reshape(x.shape)
        size = float(np.abs(y).max())
        predicted, measured = (float(np.abs(v - y).max()) / size for v in (there, z))
        return Site(str(self.unit), k, predicted, measured)

    def branch(self, a: int, x: Array) -> Array:
        """What the a-th sum adds to the stream x."""
        r = self.unit.sums[a]
        known: dict[Value, Array] = {r.entry: x.reshape(r.entry.shape)}
        parts = [self._value(v, known, split=False).reshape(x.shape) for v in r.branches]
        return np.asarray(np.sum(parts, axis=0))

    def along(self, a: int, x: Array, direction: Array) -> Array:
        """J_a times a direction, by central differences."""
        h = _STEP * max(float(np.abs(x).max()), 1e-30) / max(float(np.abs(direction).max()), 1e-30)
        step = h * direction
        return np.asarray((self.branch(a, x + step) - self.branch(a, x - step)) / (2 * h))

    def _value(self, v: Value, known: dict[Value, Array], *, split: bool) -> Array:
        if v not in known:
            op = v.producer
            if isinstance(v, Weight):
                known[v] = self._weight(v, split=split)
            elif isinstance(v, Literal):
                known[v] = wide(v, v.data)
            elif op is None or op not in self.inside:
                return self.held[v]
            else:
                arrays = [self._value(x, known, split=split) for x in op.inputs]
                results = evaluate(op, arrays, self.native)
                known |= dict(zip(op.outputs, results, strict=True))
            if split and self.explicit and v in self.branches:
                known[v] = known[v] / self.unit.times
        return known[v]

    def _weight(self, w: Weight, *, split: bool) -> Array:
        array = wide(w, w.array())
        if not split or w not in self.weights:
            return array
        k, c = self.weights[w]
        return np.asarray(c + (array - c) / k)


__all__ = ["Site", "sites"]
