"""Residual sums: x + B(x), found by ancestry alone, and the regions between points of their stream.

A sum is residual if one summand, seen through operators that keep its coordinates, is an ancestor of all
the others and has the axes of the result. Searches run backward and stop at the summand's own
position, so regions of one stream do not overlap and the whole analysis is near-linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from meristem.rewrite.axes import Term, factors_of, find
from meristem.rewrite.dimensions import common_place
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight
from meristem.rewrite.numbering import within
from meristem.rewrite.shares import stored_behind

# Operators that only rearrange memory or precision; a stream is followed through them.
SAME = frozenset({"identity", "cast", "reshape"})
# Operators between a sum of scores and their softmax.
_SCORES = frozenset(
    {"add", "where", "cast", "identity", "reshape", "mul", "div", "maximum", "expand"}
)
# Operators that a link between two sums cannot contain: after them the stream is another one.
_MIXING = frozenset(
    {
        "contract",
        "conv",
        "grouped_contract",
        "take",
        "take_many",
        "take_along",
        "pool",
        "scan",
        "softmax",
        "opaque",
        "concat",
        "extremum",
        "range",
        "full",
    }
)
_LINK = 64


@dataclass(frozen=True, eq=False)
class Residual:
    """``op`` = entry + branches. ``scaled``: the entry passes a constant factor on its way to the sum.

    ``gate`` is the scalar weight g of ``entry + g * (inner - entry)``; ``inner`` is what it gates.
    """

    op: Op
    entry: Value
    branches: tuple[Value, ...]
    scaled: bool = False
    gate: Weight | None = None
    inner: Value | None = None


@dataclass
class Streams:
    """Residual sums of a graph in topological order, and how one leads to the next.

    ``previous`` maps a sum to (the sum that its entry comes from, whether nothing but ``SAME`` lies
    between). Gates are transparent: the stream is followed through what they gate.
    """

    graph: Graph
    eq: Equations
    position: dict[Op, int] = field(default_factory=dict)
    residuals: dict[Op, Residual] = field(default_factory=dict)
    gates: dict[Op, Residual] = field(default_factory=dict)
    previous: dict[Op, tuple[Op, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = {op: i for i, op in enumerate(self.graph.ops)}
        for op in self.graph.ops:
            found = self._residual(op) if op.kind == "add" and op.output.is_float else None
            if found is not None:
                (self.residuals if found.gate is None else self.gates)[op] = found
        outer = self._outer()
        for op, r in self.residuals.items():
            link = self._link(r.entry)
            if link is not None and outer.get(op) is outer.get(link[0]):
                self.previous[op] = link

    def index(self, v: Value) -> int:
        """Position of the operator that makes ``v``; -1 for leaves."""
        return -1 if v.producer is None else self.position[v.producer]

    # -- sums -----------------------------------------------------------------------------------

    def _residual(self, op: Op) -> Residual | None:
        if not self._visible(op) or self._scored(op):
            return None
        for i in (0, 1):
            found = self._from(op, op.inputs[i], (op.inputs[1 - i],))
            if found is not None:
                return found
        terms = self._summands(op)
        if len(terms) > 2:
            for i, t in enumerate(terms):
                found = self._from(op, t, (*terms[:i], *terms[i + 1 :]))
                if found is not None:
                    return found
        return None

    def _from(self, op: Op, skip: Value, rest: tuple[Value, ...]) -> Residual | None:
        """``skip`` or what it repeats is an ancestor of all the data among ``rest``."""
        data = [v for v in rest if not isinstance(v, (Weight, Literal))]
        if not data or skip.shape != op.output.shape or isinstance(skip, (Weight, Literal)):
            return None
        if not _same_terms(self.eq.of(skip), self.eq.of(op.output)):
            return None
        for entry, scaled in self._repeated(skip):
            if all(self.leads(entry, v) for v in data):
                gate, inner = self._gate(entry, rest) if not scaled else (None, None)
                return Residual(op, entry, rest, scaled, gate, inner)
        return None

    def _repeated(self, v: Value) -> Iterator[tuple[Value, bool]]:
        """``v`` and the values that it repeats, up to layout, precision or a constant factor."""
        scaled = False
        while True:
            yield v, scaled
            p = v.producer
            if p is None:
                return
            if p.kind in SAME:
                v = p.inputs[0]
            elif p.kind in ("mul", "div") and isinstance(p.inputs[1], Literal):
                v, scaled = p.inputs[0], True
            else:
                return
            if isinstance(v, (Weight, Literal)):
                return

    def _summands(self, op: Op) -> list[Value]:
        """Operands of nested sums that nothing else reads."""
        out: list[Value] = []
        for v in op.inputs:
            p = v.producer
            if (
                p is not None
                and p.kind == "add"
                and len(v.uses) == 1
                and v.shape == op.output.shape
            ):
                out.extend(self._summands(p))
            else:
                out.append(v)
        return out

    def _gate(self, entry: Value, rest: tuple[Value, ...]) -> tuple[Weight | None, Value | None]:
        """g * (inner - entry) with one number g."""
        p = rest[0].producer if len(rest) == 1 else None
        if p is None or p.kind != "mul":
            return None, None
        for i in (0, 1):
            g, d = p.inputs[i], p.inputs[1 - i].producer
            if not isinstance(g, Weight) or np.prod(g.shape) != 1 or d is None:
                continue
            if d.kind == "sub" and d.inputs[1] is entry:
                return g, d.inputs[0]
        return None, None

    def _visible(self, op: Op) -> bool:
        """Is the sum a result of its native node, not a step inside?"""
        return op.native is None or all(user.native is not op.native for user, _ in op.output.uses)

    def _scored(self, op: Op) -> bool:
        """Scores plus a shared bias look residual from the second layer on; a softmax follows them."""
        stack, steps = [op.output], 0
        while stack and steps < _LINK:
            for user, _ in stack.pop().uses:
                steps += 1
                if user.kind == "softmax":
                    return True
                if user.kind not in _SCORES or user in self.residuals:
                    continue
                if user.kind in ("mul", "div") and not isinstance(user.inputs[1], Literal):
                    continue
                if user.kind != "add" or _narrower(user, op):
                    stack.append(user.output)
        return False

    def leads(self, start: Value, end: Value) -> bool:
        """Is ``start`` an ancestor of ``end``, or ``end`` itself?"""
        return start is end or (
            end.producer is not None and bool(self.cone(start, end, first=True))
        )

    def cone(self, start: Value, end: Value, *, first: bool = False) -> set[Op]:
        """Ancestors of ``end`` that come after ``start`` and lead from it.

        With ``first``, whatever was found when the start was reached.
        """
        low = self.index(start)
        seen: set[Op] = set()
        stack = [end]
        while stack:
            p = stack.pop().producer
            if p is None or p in seen or self.position[p] <= low:
                continue
            seen.add(p)
            if first and start in p.inputs:
                return seen
            stack.extend(p.inputs)
        if first:
            return set()
        on_path: set[Op] = set()
        for op in sorted(seen, key=self.position.__getitem__):
            if any(v is start or v.producer in on_path for v in op.inputs):
                on_path.add(op)
        return on_path

    def _outer(self) -> dict[Op, Op]:
        """For a sum inside of another one's branch, the nearest such sum."""
        cones = {op: self.cone(r.entry, op.output) for op, r in self.residuals.items()}
        out: dict[Op, Op] = {}
        for op in sorted(cones, key=lambda o: len(cones[o]), reverse=True):
            out.update((inner, op) for inner in cones[op] if inner in cones and inner is not op)
        return out

    # -- links ----------------------------------------------------------------------------------

    def _link(self, entry: Value) -> tuple[Op, bool] | None:
        """The one sum that a later sum's entry is made of, through norms and the like."""
        v = entry
        while v.producer is not None:
            p = v.producer
            if p in self.residuals:
                return p, True
            if p in self.gates:
                v = self.gates[p].inner or v
            elif p.kind in SAME:
                v = p.inputs[0]
            else:
                break
        found: set[Op] = set()
        seen: set[Op] = set()
        stack = [v]
        while stack:
            u = stack.pop()
            made = u.producer
            if made is None:
                if not isinstance(u, (Weight, Literal)):
                    return None
            elif made in self.residuals:
                found.add(made)
            elif made in self.gates:
                inner = self.gates[made].inner
                assert inner is not None
                stack.append(inner)
            elif made not in seen:
                seen.add(made)
                if made.kind in _MIXING or len(seen) > _LINK:
                    return None
                stack.extend(made.inputs)
        if len(found) != 1 or not seen:
            return None
        last = found.pop()
        return (last, False) if np.prod(last.output.shape) == np.prod(entry.shape) else None

    # -- regions --------------------------------------------------------------------------------

    def region(self, start: Value, end: Value) -> list[Op]:
        """What must be repeated to repeat the step from ``start`` to ``end``, in order.

        The operators between the two, those on the same native nodes, and what only they use and what
        is made of weights: a bias from a table, or keys and values from another stream. Everything else
        that they read is context, shared by all blocks; so is what another module makes (rotations of
        a stack that has a single block).
        """
        inside = self.cone(start, end)
        self._close(inside)
        self._absorb(inside, start, common_place(op.place for op in inside if op.place))
        self._close(inside)
        return sorted(inside, key=self.position.__getitem__)

    def _close(self, inside: set[Op]) -> None:
        """Operators of one native node stay together; they are neighbours in the graph."""
        for op in list(inside):
            i = self.position[op]
            for step in (-1, 1):
                j = i + step
                while 0 <= j < len(self.graph.ops) and op.native is not None:
                    other = self.graph.ops[j]
                    if other.native is not op.native or other in inside:
                        break
                    inside.add(other)
                    j += step

    def _absorb(self, inside: set[Op], start: Value, place: str) -> None:
        results = {v for _, v in self.graph.outputs}
        order = sorted(inside, key=self.position.__getitem__, reverse=True)
        pool: dict[Op, bool] = {}  # operator that only the region uses -> search ends here

        def consider(op: Op | None) -> None:
            if op is None or op is start.producer or op in inside or op in pool:
                return
            if any(v in results for v in op.outputs) or _elsewhere(op.place, place):
                return
            users = [u for v in op.outputs for u, _ in v.uses]
            if all(u in inside or (u in pool and not pool[u]) for u in users):
                weights = any(isinstance(v, Weight) for v in op.inputs)
                pool[op] = weights and op.kind in ("contract", "conv", "grouped_contract")
                waiting.append(op)

        waiting = list(order)
        while waiting:
            op = waiting.pop()
            if not pool.get(op, False):
                for v in op.inputs:
                    consider(v.producer)
            else:
                for v in op.inputs:
                    if v.producer is not None and stored_behind(v) is not None:
                        consider(v.producer)
        made: set[Op] = set()
        for op in sorted(pool, key=self.position.__getitem__):
            if any(isinstance(v, Weight) or v.producer in made for v in op.inputs):
                made.add(op)
        inside |= made


def _elsewhere(path: str, module: str) -> bool:
    """Is a path known to be outside of a module?"""
    return bool(path and module) and not within(path, [module])


def _narrower(user: Op, op: Op) -> bool:
    """A further sum with something that has fewer axes: masks and biases, not a stream."""
    return any(
        v is not op.output and np.prod(v.shape) < np.prod(op.output.shape) for v in user.inputs
    )


def _same_terms(a: tuple[Term, ...], b: tuple[Term, ...]) -> bool:
    """Equal axes: the same representative, or the same factors."""
    return len(a) == len(b) and all(_same_axis(x, y) for x, y in zip(a, b, strict=True))


def _same_axis(a: Term, b: Term) -> bool:
    a, b = find(a), find(b)
    if a is b or a.size == b.size == 1:
        return True
    fa, fb = factors_of(a), factors_of(b)
    if len(fa) != len(fb) or a.size != b.size:
        return False
    if len(fa) == 1:
        return a.kind == b.kind == "cat" and _same_terms(a.parts, b.parts)
    return all(_same_axis(x, y) for x, y in zip(fa, fb, strict=True))
