"""Norms that a program spells out, recognised as one operator of the view.

    mean(x) -> d = x - mean -> mean(d * d) -> + eps -> rsqrt (or sqrt, reciprocal) -> d * rstd
    mean(x * x) -> + eps -> rsqrt -> x * rstd

Fused, a norm has one obligation instead of a chain whose parts are not preserved one by one (the mean of
mean-filled coordinates is unchanged, but no local rule can know that subtracting it leaves zeros). The
native nodes stay as they are: nothing is rewritten in the carrier.
"""

from __future__ import annotations

from collections.abc import Iterator

from meristem.rewrite.graph import Graph, Literal, Op, Value

_THROUGH = ("cast", "identity")


def fuse_norms(graph: Graph) -> int:
    """Replace every spelled-out norm by a ``norm`` operator; returns how many were found."""
    found = [m for op in graph.ops if (m := _match(op)) is not None]
    if found:
        before = _live(graph)
        for match in found:
            match.apply()
        _forget(graph, before - _live(graph))
    return len(found)


class _Norm:
    """A match: the final product, what it normalises, epsilon, and the native reductions."""

    def __init__(
        self,
        last: Op,
        x: Value,
        eps: Literal,
        axes: tuple[int, ...],
        center: bool,
        reducers: list[Op],
    ) -> None:
        self.last, self.x, self.eps, self.axes = last, x, eps, axes
        self.center, self.reducers = center, reducers

    def apply(self) -> None:
        op = self.last
        for i, v in enumerate(op.inputs):
            v.uses.remove((op, i))
        op.kind = "norm"
        op.inputs = (self.x, self.eps)
        op.attrs = {
            "axes": self.axes,
            "center": self.center,
            "reducers": tuple(r.native for r in self.reducers),
        }
        op.origin = "layer norm spelled out" if self.center else "rms norm spelled out"
        op.slots = {}
        for i, v in enumerate(op.inputs):
            v.uses.append((op, i))
        self.eps.uses = [(op, 1)]


def _source(v: Value) -> Value:
    """Look through casts and identities."""
    while v.producer is not None and v.producer.kind in _THROUGH:
        v = v.producer.inputs[0]
    return v


def _produced(v: Value, *kinds: str) -> Op | None:
    v = _source(v)
    return v.producer if v.producer is not None and v.producer.kind in kinds else None


def _match(op: Op) -> _Norm | None:
    """``op`` is the product (or quotient) that ends a norm."""
    if op.kind not in ("mul", "div"):
        return None
    for value, other in _sides(op):
        variance = _variance(other, inverse=op.kind == "mul")
        if variance is None:
            continue
        total, eps = variance
        squared = _squared(total.inputs[0])
        if squared is None or not _same(squared, value):
            continue
        if not total.attrs["mean"] or not total.attrs["keep"]:
            continue
        axes = tuple(total.attrs["axes"])
        centred = _produced(value, "sub")
        if centred is not None:
            mean = _produced(centred.inputs[1], "sum")
            if (
                mean is not None
                and mean.attrs["mean"]
                and mean.attrs["keep"]
                and tuple(mean.attrs["axes"]) == axes
                and _source(mean.inputs[0]) is _source(centred.inputs[0])
            ):
                return _Norm(op, centred.inputs[0], eps, axes, True, [mean, total])
        return _Norm(op, value, eps, axes, False, [total])
    return None


def _sides(op: Op) -> Iterator[tuple[Value, Value]]:
    a, b = op.inputs
    yield a, b
    if op.kind == "mul":
        yield b, a


def _variance(v: Value, *, inverse: bool) -> tuple[Op, Literal] | None:
    """The mean of squares and epsilon behind ``rsqrt(var + eps)`` (or ``sqrt`` under a quotient)."""
    root = _produced(v, "rsqrt") if inverse else _produced(v, "sqrt")
    if root is None and inverse:
        flipped = _produced(v, "reciprocal")
        root = _produced(flipped.inputs[0], "sqrt") if flipped is not None else None
        if root is None:
            power = _produced(v, "pow")
            if power is not None and _exponent(power) == -0.5:
                root = power
    if root is None:
        return None
    add = _produced(root.inputs[0], "add")
    if add is None:
        return None
    for i in (0, 1):
        eps, rest = _source(add.inputs[i]), add.inputs[1 - i]
        total = _produced(rest, "sum")
        if isinstance(eps, Literal) and eps.data.size == 1 and total is not None:
            return total, eps
    return None


def _exponent(op: Op) -> float | None:
    p = op.inputs[1]
    return float(p.data.flat[0]) if isinstance(p, Literal) and p.data.size == 1 else None


def _squared(v: Value) -> Value | None:
    """x of x ** 2 or x * x."""
    op = _produced(v, "pow", "mul")
    if op is None:
        return None
    if op.kind == "pow":
        return op.inputs[0] if _exponent(op) == 2 else None
    return op.inputs[0] if _source(op.inputs[0]) is _source(op.inputs[1]) else None


def _same(a: Value, b: Value) -> bool:
    """One value, or the same difference computed twice."""
    a, b = _source(a), _source(b)
    if a is b:
        return True
    p, q = a.producer, b.producer
    return (
        p is not None
        and q is not None
        and p.kind == q.kind == "sub"
        and all(_same(x, y) for x, y in zip(p.inputs, q.inputs, strict=True))
    )


def _live(graph: Graph) -> set[int]:
    """Operators that an output still needs."""
    seen: set[int] = set()
    stack = [v.producer for _, v in graph.outputs if v.producer is not None]
    while stack:
        op = stack.pop()
        if id(op) in seen:
            continue
        seen.add(id(op))
        stack.extend(v.producer for v in op.inputs if v.producer is not None)
    return seen


def _forget(graph: Graph, dead: set[int]) -> None:
    """Drop operators that only fused norms used. What nothing used before stays: its sizes still count
    (an empty slice must stay empty)."""
    for op in graph.ops:
        if id(op) in dead:
            for i, v in enumerate(op.inputs):
                if (op, i) in v.uses:
                    v.uses.remove((op, i))
    graph.ops = [op for op in graph.ops if id(op) not in dead]
