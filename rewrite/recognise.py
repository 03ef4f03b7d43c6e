"""Recognition of what a paper would name: attentions, residual streams, tables.

Recognition gives names, and nothing rests on it: a growth of a misnamed dimension is proved by the same
rules. Patterns are walks over the view with a reason where they end, not lists of operator sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meristem.rewrite.axes import Term, atoms_of, factors_of, find
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight

# Operators between the scores and their softmax, and between the softmax and the values.
_SCORE = {
    "add",
    "sub",
    "where",
    "mul",
    "div",
    "cast",
    "identity",
    "tanh",
    "reshape",
    "expand",
    "maximum",
}
_LAYOUT = {"reshape", "permute", "expand", "slice", "concat", "cast", "identity", "pad"}


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T) v. ``heads`` are the factors of the head axes, ``group`` those that keys lack."""

    op: Op
    query: Value
    key: Value
    value: Value
    heads: tuple[Term, ...]
    group: tuple[Term, ...]
    qk: Term
    v: Term | None

    @property
    def kv(self) -> tuple[Term, ...]:
        return tuple(t for t in self.heads if t not in self.group)


def attentions(graph: Graph, eq: Equations, in_weights: set[Term]) -> Iterator[Attention]:
    """Every attention of the graph, in order; ``in_weights`` are the atoms that weights mix."""
    for op in graph.ops:
        if op.kind == "softmax":
            found = _attention(op, eq, in_weights)
            if found is not None:
                yield found


def _attention(op: Op, eq: Equations, in_weights: set[Term]) -> Attention | None:
    scores = _scores(op)
    mix = _mix(op, eq)
    if scores is None or mix is None:
        return None
    a, b, out = scores.attrs["labels"]
    summed = [k for k in a if k in b and k not in out]
    if len(summed) != 1 or len(out) < 3:
        return None
    query, key = scores.inputs
    terms = dict(zip(a, eq.of(query), strict=True))
    keys_axis = eq.of(op.output)[op.attrs["axis"]]
    rows = out[-2]
    heads: list[Term] = []
    for k, t in zip(out, eq.of(scores.output), strict=True):
        if k == rows or find(t) is find(keys_axis):
            continue
        heads += [f for f in factors_of(t) if f.kind == "atom" and f in in_weights]
    value = mix.inputs[1] if _leads(op.output, mix.inputs[0]) else mix.inputs[0]
    return Attention(
        op,
        query,
        key,
        value,
        tuple(heads),
        tuple(_absent(key, heads, eq)),
        terms[summed[0]],
        _kept(mix, value, heads, keys_axis, eq),
    )


def _scores(op: Op) -> Op | None:
    """The contraction of two activations whose result the softmax normalises."""
    stack, seen = [op.inputs[0]], set()
    while stack:
        v = stack.pop()
        p = v.producer
        if p is None or id(p) in seen:
            continue
        seen.add(id(p))
        if p.kind == "contract":
            if all(weight_of(x) is None for x in p.inputs):
                return p
        elif p.kind in _SCORE:
            stack.extend(x for x in p.inputs if x.is_float)
    return None


def _mix(op: Op, eq: Equations) -> Op | None:
    """The contraction that sums values over the softmaxed axis."""
    axis = find(eq.of(op.output)[op.attrs["axis"]])
    stack, seen = [op.output], set()
    while stack:
        v = stack.pop()
        for user, i in v.uses:
            if id(user) in seen:
                continue
            seen.add(id(user))
            if user.kind == "contract":
                labels = user.attrs["labels"]
                summed = [t for k, t in zip(labels[i], eq.of(v), strict=True) if k not in labels[2]]
                if any(find(t) is axis for t in summed):
                    return user
            elif user.kind in _SCORE | {"isnan"}:
                stack.extend(user.outputs)
    return None


def _leads(start: Value, end: Value) -> bool:
    """Does ``end`` come from ``start`` through operators on scores?"""
    stack, seen = [end], set()
    while stack:
        v = stack.pop()
        if v is start:
            return True
        if v.producer is not None and id(v) not in seen and v.producer.kind in _SCORE | {"isnan"}:
            seen.add(id(v))
            stack.extend(v.producer.inputs)
    return False


def _kept(mix: Op, value: Value, heads: Sequence[Term], keys: Term, eq: Equations) -> Term | None:
    """The axis of the values that the result keeps and that is neither head nor batch."""
    side = 0 if mix.inputs[0] is value else 1
    labels = mix.attrs["labels"]
    other = labels[1 - side]
    for k, t in zip(labels[side], eq.of(value), strict=True):
        if k in labels[2] and k not in other and t.size > 1 and find(t) not in heads:
            return t
    return None


def _absent(key: Value, heads: Sequence[Term], eq: Equations) -> list[Term]:
    """Head factors that the keys lack before they are repeated: the queries' group."""
    out: list[Term] = []
    stack, seen = [key], set()
    while stack:
        v = stack.pop()
        if id(v) in seen:
            continue
        seen.add(id(v))
        own = {a for t in eq.of(v) for a in atoms_of(t)}
        if any(h in own for h in heads):
            out += [h for h in heads if h not in own and h not in out]
        if v.producer is not None and v.producer.kind not in ("contract", "conv", "norm"):
            stack.extend(x for x in v.producer.inputs if x.is_float and not isinstance(x, Weight))
    return out


def weight_of(v: Value) -> Weight | None:
    """The weight that a value is, or rearranges."""
    while v.producer is not None and v.producer.kind in _LAYOUT and len(v.producer.inputs) == 1:
        v = v.producer.inputs[0]
    return v if isinstance(v, Weight) else None


def streams(graph: Graph, eq: Equations) -> list[Term]:
    """Axis terms of residual streams: axes that a sum shares with an ancestor of its other operand."""
    order = {id(op): i for i, op in enumerate(graph.ops)}
    found: dict[Term, None] = {}
    for op in graph.ops:
        if op.kind != "add" or not op.output.is_float:
            continue
        a, b = op.inputs
        if (
            a.shape != b.shape
            or isinstance(a, (Weight, Literal))
            or isinstance(b, (Weight, Literal))
        ):
            continue
        if _reaches(a, b, order) or _reaches(b, a, order):
            for t in eq.of(op.output):
                if t.size > 1:
                    found.setdefault(find(t))
    return list(found)


def _reaches(early: Value, late: Value, order: dict[int, int]) -> bool:
    """Is ``early`` an ancestor of ``late`` through a contraction? Bounded by topological order."""
    early = _plain(early)
    floor = -1 if early.producer is None else order[id(early.producer)]
    stack, seen = [(late, False)], set()
    while stack:
        v, mixed = stack.pop()
        if v is early:
            if mixed:
                return True
            continue
        p = v.producer
        if p is None or order[id(p)] <= floor or (id(v), mixed) in seen:
            continue
        seen.add((id(v), mixed))
        mixed = mixed or p.kind in ("contract", "conv", "grouped_contract")
        stack.extend((x, mixed) for x in p.inputs if x.is_float and not isinstance(x, Weight))
    return False


def _plain(v: Value) -> Value:
    while v.producer is not None and v.producer.kind in ("cast", "identity"):
        v = v.producer.inputs[0]
    return v
