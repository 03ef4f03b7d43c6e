"""Which axes of which weights are only ever summed, so that replicas can share them.

What sums over copies of a coordinate gets them all. Where one factor of every such product is a weight
that nothing else reads, its entries can be split among the copies in any way that sums to what they were
(Net2Net, arXiv:1511.05641; LEMON, arXiv:2310.07999). This is decided from the graph alone, before the flow:
a weight whose old entries are split holds none of its old values any more, so every reader must sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from operator import mul

from meristem.rewrite.graph import Graph, Op, Value, Weight

Axes = frozenset[int]
NO_AXES: Axes = frozenset()

_SAME = ("identity", "cast")


def shared_axes(graph: Graph) -> dict[Value, Axes]:
    """For weights, and values that only move their entries: the axes that all readers sum over.

    Of two weights whose product is summed only the first has its axis shared.
    """
    outputs = {v for _, v in graph.outputs}
    out: dict[Value, Axes] = {}
    for w in graph.weights:
        if w.role == "parameter" and w.is_float:
            axes = _summed(w, outputs, out)
            if axes:
                _hand_on(w, axes, out)
    return out


def _summed(v: Value, outputs: set[Value], shared: dict[Value, Axes]) -> Axes:
    """The axes of ``v`` that every reader sums over, against something that is not shared itself."""
    if v in outputs or not v.uses:
        return NO_AXES
    axes: Axes | None = None
    for op, position in v.uses:
        got = _by(op, position, outputs, shared)
        axes = got if axes is None else axes & got
    return axes or NO_AXES


def _by(op: Op, position: int, outputs: set[Value], shared: dict[Value, Axes]) -> Axes:
    """The axes of one operand that one reader sums over."""
    labels = contracted(op)
    if labels is not None and position < 2:
        own, other, out = labels[position], labels[1 - position], labels[2]
        partner = op.inputs[1 - position]
        taken = {other[a] for a in shared.get(partner, NO_AXES)}
        if stored_behind(partner) is stored_behind(op.inputs[position]):
            return NO_AXES  # a product of shares
        return frozenset(
            a for a, k in enumerate(own) if k in other and k not in out and k not in taken
        )
    if op.kind in _MOVES and position == 0:
        return _moved(op, _summed(op.output, outputs, shared), back=True)
    return NO_AXES


def stored_behind(v: Value) -> Weight | None:
    """The stored tensor that ``v`` is, seen through layout and precision."""
    while v.producer is not None and v.producer.kind in _MOVES:
        v = v.producer.inputs[0]
    return v if isinstance(v, Weight) else None


def kept_axes(op: Op, position: int) -> Axes:
    """The axes of the stored tensor behind an operand that an operator which sums products does not sum."""
    labels = contracted(op)
    assert labels is not None, op
    axes = frozenset(a for a, k in enumerate(labels[position]) if k not in labels[2])
    v = op.inputs[position]
    while v.producer is not None and v.producer.kind in _MOVES:
        axes = _moved(v.producer, axes, back=True)
        v = v.producer.inputs[0]
    return frozenset(range(len(v.shape))) - axes


def _hand_on(v: Value, axes: Axes, shared: dict[Value, Axes]) -> None:
    shared[v] = axes
    for op, _ in v.uses:
        if op.kind in _MOVES:
            _hand_on(op.output, _moved(op, axes, back=False), shared)


def contracted(op: Op) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Labels of both factors and of the result, where an operator sums products."""
    if op.kind == "contract":
        a, b, out = op.attrs["labels"]
        return tuple(a), tuple(b), tuple(out)
    if op.kind == "grouped_contract":
        return (0, 1), (4, 1, 2), (0, 2)
    if op.kind == "conv":
        n = len(op.output.shape) - 3
        a, b, out = (tuple(range(k, k + n)) for k in (10, 20, 30))
        return (0, 1, 2, *a), (1, 3, 2, *b), (0, 1, 3, *out)
    return None


_MOVES = (*_SAME, "permute", "reshape")


def _moved(op: Op, axes: Axes, *, back: bool) -> Axes:
    """The axes of an operator's operand (``back``) or result that are these of the other."""
    if op.kind in _SAME:
        return axes
    if op.kind == "permute":
        perm = tuple(op.attrs["perm"])
        return frozenset(perm[a] for a in axes) if back else frozenset(map(perm.index, axes))
    before, after = op.inputs[0].shape, op.output.shape
    pairs = _groups(before, after)
    if back:
        pairs = [(b, a) for a, b in pairs]
    return frozenset(a for own, others in pairs if own and own <= axes for a in others)


def _groups(before: Iterable[int], after: Iterable[int]) -> list[tuple[Axes, Axes]]:
    """Axes of a row-major regrouping that hold the same coordinates, in smallest groups."""
    cuts = [list(accumulate(shape, mul, initial=1)) for shape in (tuple(before), tuple(after))]
    ends = sorted(set(cuts[0]) & set(cuts[1]))
    out = []
    for low, high in pairwise(ends):
        group = [
            frozenset(a for a, (s, e) in enumerate(pairwise(c)) if low <= s < e <= high)
            for c in cuts
        ]
        out.append((group[0], group[1]))
    return out
