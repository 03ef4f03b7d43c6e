"""The residual split: every block k times, each with 1/k of its branches.

x + F(x) becomes k steps x + F(x) / k: Euler steps of dx/dt = F, of a k-th of the length. That is another
function. For branches f_1 .. f_s, one after another, it differs by

    (k - 1) / (2 k) (sum_a J_a f_a + sum_{a < b} (J_a f_b - J_b f_a)) + higher orders of f,

for one branch (k - 1) / (2 k) J_F F, which grows with k to a half of J_F F. The factor is folded into the
weights nearest the sums, so no operator is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log

import numpy as np

from meristem.rewrite.edits import EditScript, WeightEdit
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array, Graph, Literal, Op, Value, Weight
from meristem.rewrite.interpret import run, wide
from meristem.rewrite.lift import Lift
from meristem.rewrite.orders import interleave
from meristem.rewrite.registry import semantics
from meristem.rewrite.residual import Residual
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block
from meristem.rewrite.zeros import zeroed

# What is linear in all of its terms together, in one factor, in its first operand.
_TERMS = frozenset({"add", "sub", "concat"})
_FACTORS = frozenset({"mul", "contract", "conv", "grouped_contract"})
_FIRST = frozenset(
    {"identity", "cast", "reshape", "permute", "expand", "slice", "neg", "div", "sum"}
)
# Central differences along a branch move the stream by this part of its size.
_STEP = 1e-5


def times(stack: Stack, target: int) -> list[int]:
    """How often each block of a stack of ``target`` blocks is there."""
    order = interleave(stack.size // stack.period, target // stack.period)
    return [order.count(i // stack.period) for i in range(stack.size)]


def folded(stack: Stack, target: int) -> dict[Weight, tuple[int, float]]:
    """Weights that carry the factor: w becomes c + (w - c) / k, as weight -> (k, c).

    Raises NotPreserved where the branches of a block are not linear in weights of its own.
    """
    out: dict[Weight, tuple[int, float]] = {}
    for i, (block, k) in enumerate(zip(stack.blocks, times(stack, target), strict=True)):
        if k == 1:
            continue
        own = _scalable(block)
        if own is None:
            raise NotPreserved(
                f"block {i} of {stack.name} cannot be split: a norm follows its sums, or its branches are "
                'not linear in weights of its own next to them; use method="identity", which adds '
                "blocks that compute nothing yet",
                dimension=stack.name,
                place=block.place,
                reason="no weights scale the branches",
            )
        out |= {w: (k, c) for w, c in own.items()}
    return out


def _scalable(block: Block) -> dict[Weight, float] | None:
    """Weights in which all branches of a block are linear together, with what each is when they vanish."""
    if block.spine is None or any(r.scaled or r.gate is not None for r in block.spine):
        return None
    own = zeroed([v for r in block.spine for v in r.branches], block.ops, block.weights)
    if own is None or not set(own) <= set(block.named):
        return None
    return own if _linear(block, own) else None


def _linear(block: Block, own: Mapping[Weight, float]) -> bool:
    """Does everything between the weights and the sums scale as they do?"""
    reached: set[Value] = {w for w, c in own.items() if not c}
    sums = {r.op for r in block.spine or ()}
    for op in block.ops:
        hit = [i for i, v in enumerate(op.inputs) if v in reached]
        if op in sums:
            continue
        if any(own.get(v) for v in op.inputs if isinstance(v, Weight)):  # c + (w - c)
            if not any(isinstance(v, Literal) for v in op.inputs):
                return False
        elif not hit:
            continue
        elif op.kind in _TERMS:
            if len(hit) < len(op.inputs):
                return False
        elif not ((op.kind in _FACTORS and len(hit) == 1) or (op.kind in _FIRST and hit == [0])):
            return False
        reached.update(op.outputs)
    return all(v in reached for r in block.spine or () for v in r.branches)


def fold(script: EditScript, weights: Mapping[Weight, tuple[int, float]]) -> None:
    """Add the factors to the recipes of a script."""
    known = {e.weight: i for i, e in enumerate(script.weights)}
    for w, (k, constant) in weights.items():
        same = Expansion(w.name, tuple(Lift(("atom", n, n)) for n in w.shape))
        edit = script.weights[known[w]] if w in known else WeightEdit(w, same)
        recipe = edit.expansion
        grids = [a.core.blocks() for a in recipe.axes]
        scales = {
            at: recipe.scales.get(at, 0.0) - log(k)
            for at in np.ndindex(*map(len, grids))
            if not any(fresh for g, i in zip(grids, at, strict=True) for _, fresh in g[i])
        }
        edit = replace(edit, expansion=replace(recipe, scales=scales, shift=-constant))
        if w in known:
            script.weights[known[w]] = edit
        else:
            script.weights.append(edit)


@dataclass(frozen=True)
class Site:
    """One split block: the error at its exit, relative to the largest value there."""

    stack: str
    block: int
    times: int
    predicted: float
    measured: float

    def __str__(self) -> str:
        return (
            f"block {self.block} of {self.stack} as {self.times}: predicted error {self.predicted:.2e} "
            f"(first order), measured {self.measured:.2e}"
        )


def sites(graph: Graph, targets: Mapping[Stack, int], inputs: Mapping[str, Array]) -> list[Site]:
    """The predicted and the measured error of every split block, each from the original's own stream.

    ``inputs`` are by name, of the sizes that the graph was built for. In float64, by the interpreter.
    """
    held: dict[Value, Array] = {}
    run(graph, inputs, watch=held.__setitem__)
    held |= {v: wide(v, inputs[v.name]) for v in graph.inputs}
    out = []
    for stack, target in targets.items():
        weights = folded(stack, target)
        for i, (block, k) in enumerate(zip(stack.blocks, times(stack, target), strict=True)):
            if k > 1:
                out.append(_site(stack, i, _Branches(block, held, weights), k))
    return out


def _site(stack: Stack, i: int, f: _Branches, k: int) -> Site:
    x = f.held[f.block.entry]
    y, z = x, x
    for a in range(f.count):
        y = y + f(a, y)
    for _ in range(k):
        for a in range(f.count):
            z = z + f(a, z, split=True)
    at_x = [f(a, x) for a in range(f.count)]
    terms = np.zeros_like(x)
    for a in range(f.count):
        terms += f.along(a, x, at_x[a])
        for b in range(a + 1, f.count):
            terms += f.along(a, x, at_x[b]) - f.along(b, x, at_x[a])
    size = float(np.abs(y).max())
    predicted = (k - 1) / (2 * k) * float(np.abs(terms).max()) / size
    return Site(stack.name, i, k, predicted, float(np.abs(z - y).max()) / size)


@dataclass
class _Branches:
    """The branches of a block as functions of the stream, everything outside as it was."""

    block: Block
    held: Mapping[Value, Array]
    weights: Mapping[Weight, tuple[int, float]]
    inside: frozenset[Op] = field(init=False)

    def __post_init__(self) -> None:
        self.inside = frozenset(self.block.ops)

    @property
    def spine(self) -> Sequence[Residual]:
        return self.block.spine or ()

    @property
    def count(self) -> int:
        return len(self.spine)

    def __call__(self, a: int, x: Array, *, split: bool = False) -> Array:
        """What the a-th sum adds to the stream x; ``split``: with the weights that carry 1/k."""
        r = self.spine[a]
        known: dict[Value, Array] = {r.entry: x.reshape(r.entry.shape)}
        parts = [self._value(v, known, split).reshape(x.shape) for v in r.branches]
        return np.asarray(np.sum(parts, axis=0))

    def along(self, a: int, x: Array, direction: Array) -> Array:
        """J_a times a direction, by central differences."""
        h = _STEP * max(float(np.abs(x).max()), 1e-30) / max(float(np.abs(direction).max()), 1e-30)
        step = h * direction
        return np.asarray((self(a, x + step) - self(a, x - step)) / (2 * h))

    def _value(self, v: Value, known: dict[Value, Array], split: bool) -> Array:
        if v not in known:
            op = v.producer
            if isinstance(v, Weight):
                known[v] = self._weight(v, split)
            elif isinstance(v, Literal):
                known[v] = wide(v, v.data)
            elif op is None or op not in self.inside:
                return self.held[v]
            else:
                arrays = [self._value(x, known, split) for x in op.inputs]
                results = semantics(op.kind).evaluate(op, *arrays)
                known |= {o: wide(o, y) for o, y in zip(op.outputs, results, strict=True)}
        return known[v]

    def _weight(self, w: Weight, split: bool) -> Array:
        array = wide(w, w.array())
        if not split or w not in self.weights:
            return array
        k, c = self.weights[w]
        return np.asarray(c + (array - c) / k)
