"""Which weights must be zero so that a branch is exactly zero.

A walk from the sum backwards: a product needs one zero factor, a sum all of its parts, a function with
f(0) = 0 its operand. Of several ways the one nearest to the sum is taken, so that as much as possible of
the branch stays alive and the zeroed factor receives gradient at the first step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from meristem.rewrite.graph import Literal, Op, Value, Weight
from meristem.rewrite.registry import semantics
from meristem.rewrite.semantics.elementwise import Row
from meristem.rewrite.shares import NO_AXES, Axes, kept_axes, stored_behind

# Operators that hand a constant through unchanged.
_CONSTANT = frozenset({"identity", "cast", "reshape", "permute", "expand", "slice"})
# Operators that sum products.
_SUMMING = frozenset({"contract", "conv", "grouped_contract"})
_DEPTH = 400

# How far from the sum, how many weights; and what each weight must be.
Way = tuple[int, dict[Weight, float]]


def zeroed(
    values: Iterable[Value], inside: Iterable[Op], own: Iterable[Weight]
) -> dict[Weight, float] | None:
    """Weights among ``own`` with the constant each must hold, so that all ``values`` are zero.

    A gain that is stored as ``w = gain - c`` must hold ``-c``. None where no choice of weights makes the
    values zero.
    """
    order, wanted = list(inside), list(values)
    search = _Search(order, own)
    joint = _all([search.way(v) for v in wanted])
    if joint is None or not _regular(order, joint[1], set(wanted)):
        return None
    return joint[1]


def before(values: Iterable[Value], inside: Iterable[Op]) -> dict[Weight, Axes]:
    """Weights that the contractions nearest to ``values`` sum, with the axes that they do not sum: where
    such a weight is zero at a place of one of these, so are the values."""
    ops, seen, found = set(inside), set[Op](), dict[Weight, Axes]()
    stack = list(values)
    while stack:
        op = stack.pop().producer
        if op is None or op not in ops or op in seen:
            continue
        seen.add(op)
        stored = _stored(op)
        for i, w in stored.items():
            found[w] = found.get(w, NO_AXES) | kept_axes(op, i)
        if not stored:
            stack.extend(op.inputs)
    return found


def factors(weights: Collection[Weight], inside: Iterable[Op]) -> list[Value]:
    """What is summed with these weights."""
    return [op.inputs[1 - i] for op in inside for i, w in _stored(op).items() if w in weights]


def _stored(op: Op) -> dict[int, Weight]:
    """The stored tensors that an operator sums, by their position."""
    if op.kind not in _SUMMING:
        return {}
    stored = ((i, stored_behind(v)) for i, v in enumerate(op.inputs[:2]))
    return {i: w for i, w in stored if w is not None}


def _regular(inside: Iterable[Op], weights: Mapping[Weight, float], values: set[Value]) -> bool:
    """Does nothing divide by what the weights make zero (0 / 0 is no zero), and do the values train?

    Walks forward from the weights; a value that they reach is a known number or unknown, and an unknown
    one may be zero. A sum with zero is the other term, so the stream itself is not reached.
    """
    numbers: dict[Value, float | None] = {}
    numbers.update(weights.items())
    stuck: set[Value] = set()
    for op in inside:
        if not any(v in numbers for v in op.inputs) or _keeps_the_other(op, numbers):
            continue
        entry = semantics(op.kind)
        for i in entry.poles(op):
            if op.inputs[i] in numbers and not numbers[op.inputs[i]]:
                return False
        for out in op.outputs:
            numbers[out] = _number(op, numbers)
            if numbers[out] == 0 and _stuck(op, numbers, stuck):
                stuck.add(out)
    return not stuck.intersection(values)


def _stuck(op: Op, numbers: Mapping[Value, float | None], stuck: set[Value]) -> bool:
    """Does no gradient reach the weights through a zero: behind a flat function, or a product of two?"""
    entry = semantics(op.kind)
    if any(numbers.get(op.inputs[i]) == 0 for i in entry.stalls(op)):
        return True
    rule = entry.vanishes(op)
    zeros = [op.inputs[i] for i in rule.operands if numbers.get(op.inputs[i]) == 0]
    return bool(zeros) and (all(v in stuck for v in zeros) or (rule.any and len(zeros) > 1))


def _keeps_the_other(op: Op, numbers: Mapping[Value, float | None]) -> bool:
    """A sum of a known zero and a value that the weights do not reach."""
    reached = [v for v in op.inputs if v in numbers]
    return (
        op.kind == "add" and len(reached) < len(op.inputs) and all(numbers[v] == 0 for v in reached)
    )


def _number(op: Op, numbers: Mapping[Value, float | None]) -> float | None:
    """The number that a result is everywhere, if it is known."""
    known = [
        float(v.data.flat[0]) if isinstance(v, Literal) and v.data.size == 1 else numbers.get(v)
        for v in op.inputs
    ]
    rule = semantics(op.kind).vanishes(op)
    zeros = [known[i] == 0 for i in rule.operands]
    if zeros and (any(zeros) if rule.any else all(zeros)):
        return 0.0
    if op.kind in _CONSTANT:
        return known[0]
    if not isinstance(semantics(op.kind), Row) or None in known:
        return None
    (array,) = semantics(op.kind).evaluate(op, *(np.float64(n) for n in known))  # type: ignore[arg-type]
    return float(array) if np.isfinite(array) else None


class _Search:
    def __init__(self, inside: Iterable[Op], own: Iterable[Weight]) -> None:
        self.inside, self.own = set(inside), set(own)
        self.known: dict[tuple[Value, float], Way | None] = {}

    def way(self, v: Value, target: float = 0.0, depth: int = 0) -> Way | None:
        """The nearest way to make ``v`` equal to ``target`` everywhere."""
        key = (v, target)
        if key not in self.known:
            self.known[key] = None
            self.known[key] = self._way(v, target, depth) if depth < _DEPTH else None
        return self.known[key]

    def _way(self, v: Value, target: float, depth: int) -> Way | None:
        if isinstance(v, Weight):
            free = v in self.own and v.role == "parameter" and v.is_float
            return (0, {v: target}) if free else None
        if isinstance(v, Literal):
            return (0, {}) if v.data.size and bool((v.data == target).all()) else None
        op = v.producer
        if op is None or op not in self.inside:
            return None
        ways = list(self._shifted(op, target, depth))
        if target and op.kind in _CONSTANT:
            ways.append(self.way(op.inputs[0], target, depth + 1))
        elif not target:
            rule = semantics(op.kind).vanishes(op)
            parts = [self.way(op.inputs[i], 0.0, depth + 1) for i in rule.operands]
            if parts:
                ways.append(_nearest(parts) if rule.any else _all(parts))
        best = _nearest(ways)
        return None if best is None else (best[0] + 1, best[1])

    def _shifted(self, op: Op, target: float, depth: int) -> Iterator[Way | None]:
        """c + w = target, w - c = target."""
        if op.kind not in ("add", "sub"):
            return
        for i in (0, 1) if op.kind == "add" else (1,):
            c = op.inputs[i]
            if isinstance(c, Literal) and c.data.size == 1 and float(c.data.flat[0]):
                number = float(c.data.flat[0])
                rest = target - number if op.kind == "add" else target + number
                yield self.way(op.inputs[1 - i], rest, depth + 1)


def _nearest(ways: Iterable[Way | None]) -> Way | None:
    return min((w for w in ways if w is not None), key=lambda w: (w[0], len(w[1])), default=None)


def _all(ways: Iterable[Way | None]) -> Way | None:
    """All at once, if they do not ask one weight for two constants."""
    far, joint = 0, dict[Weight, float]()
    for w in ways:
        if w is None:
            return None
        far = max(far, w[0])
        for weight, constant in w[1].items():
            if joint.setdefault(weight, constant) != constant:
                return None
    return far, joint
