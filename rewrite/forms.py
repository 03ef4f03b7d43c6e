"""The structure of a region as text, for comparing regions: equal texts mean equal programs.

Weights that only the region reads count by shape, everything else that it reads by what it computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from meristem.rewrite.graph import Input, Literal, Op, Value, Weight
from meristem.rewrite.residual import Streams

# Stored tables up to this size are compared by content, larger ones by name.
SMALL_BYTES = 1 << 16
# Attributes that are handles of the carrier, not structure.
HANDLES = frozenset({"reducers"})


@dataclass(frozen=True)
class Form:
    """``exact`` and ``coarse`` digests, and the weights that only the region reads.

    ``weights`` are in the order of its structure, so they correspond between equal regions; ``others``
    are gates, and what the exit does not need.
    """

    exact: str
    coarse: str
    weights: tuple[Weight, ...]
    others: tuple[Weight, ...]


class Forms:
    """Digests of regions; what lies outside is numbered once for the whole graph."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self._values: dict[Value, str] = {}

    def of(self, entry: Value, exit_: Value, ops: Iterable[Op]) -> Form:
        """The form of the region between two points of a stream."""
        inside = set(ops)
        numbers: dict[Value, int] = {}
        weights: list[Weight] = []
        lines: list[str] = []
        coarse: list[str] = []

        def reference(v: Value) -> str:
            if v is entry:
                return "entry"
            if v in numbers:
                return f"%{numbers[v]}"
            if isinstance(v, Weight) and owned(v, inside):
                if v not in weights:
                    weights.append(v)
                return f"weight{weights.index(v)}:{v.dtype}{v.shape}{v.role}"
            return self.value(v)

        stack: list[tuple[Op, bool]] = []
        end = self._through_gate(exit_)
        if end.producer in inside:
            stack.append((end.producer, False))
        done: set[Op] = set()
        while stack:
            op, ready = stack.pop()
            if op in done:
                continue
            if not ready:
                stack.append((op, True))
                for v in reversed(op.inputs):
                    inner = self._through_gate(v)
                    p = inner.producer
                    if v is not entry and p is not None and p in inside and p not in done:
                        stack.append((p, False))
                continue
            done.add(op)
            operands = [
                reference(self._through_gate(v) if v is not entry else v) for v in op.inputs
            ]
            lines.append(f"{op.kind}{self.attrs(op)}({','.join(operands)})")
            coarse.extend(
                f"{op.kind}{v.shape}"
                for v in op.inputs
                if isinstance(v, Weight) and v in weights and v.role == "parameter"
            )
            for out in op.outputs:
                numbers[out] = len(numbers)
        count = len(weights)
        for op in sorted(inside - done, key=self.streams.position.__getitem__):
            for v in op.inputs:
                if isinstance(v, Weight):
                    reference(v)
        exact, rough = _digest("\n".join(lines)), _digest("\n".join(sorted(coarse)))
        return Form(exact, rough, tuple(weights[:count]), tuple(weights[count:]))

    def _through_gate(self, v: Value) -> Value:
        """A gated block has the form of the block that it gates."""
        gate = self.streams.gates.get(v.producer) if v.producer is not None else None
        return gate.inner if gate is not None and gate.inner is not None else v

    @staticmethod
    def attrs(op: Op) -> str:
        """Attributes as text; a barrier counts by its native operator."""
        own = {k: v for k, v in sorted(op.attrs.items()) if k not in HANDLES}
        return f"{op.origin if op.kind == 'opaque' else ''}{own}"

    def value(self, v: Value) -> str:
        """What a value outside of all regions is: equal texts, equal values."""
        known = self._values.get(v)
        if known is not None:
            return known
        stack = [v]
        while stack:
            at = stack[-1]
            p = at.producer
            waiting = [] if p is None else [u for u in p.inputs if u not in self._values]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if p is None:
                self._values[at] = self._leaf(at)
            else:
                text = f"{p.kind}{self.attrs(p)}{at.index}({','.join(self._values[u] for u in p.inputs)})"
                self._values[at] = _digest(text)
        return self._values[v]

    @staticmethod
    def _leaf(v: Value) -> str:
        if isinstance(v, Input):
            return f"input {v.name}"
        if isinstance(v, Literal):
            return _table(v.dtype, v.data)
        if isinstance(v, Weight):
            size = int(np.prod(v.shape)) * 8
            return (
                v.name
                if v.role == "parameter" or size > SMALL_BYTES
                else _table(v.dtype, v.array())
            )
        raise AssertionError(f"{v!r} has no producer")


def owned(w: Weight, inside: set[Op]) -> bool:
    """Is a weight the region's own: trained or collected, and read by nothing else? Constants, such
    as a mask that an exporter computed, are program text."""
    return w.role != "constant" and all(op in inside for op, _ in w.uses)


def _table(dtype: str, data: np.ndarray) -> str:
    body = np.ascontiguousarray(data).tobytes() if data.dtype != object else repr(data).encode()
    return f"{dtype}{data.shape}{hashlib.md5(body, usedforsecurity=False).hexdigest()}"


def _digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
