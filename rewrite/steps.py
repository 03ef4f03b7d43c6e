"""The steps of a residual stream: what lies between two of its points, and where the last one ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from meristem.rewrite.dimensions import common_place
from meristem.rewrite.forms import Forms
from meristem.rewrite.graph import Literal, Op, Value, Weight
from meristem.rewrite.residual import SAME, Residual, Streams


@dataclass(eq=False)
class Block:
    """One step of a stream, from ``entry`` to ``exit``.

    ``named`` weights are read by nothing else, in an order that corresponds between equal blocks, then
    ``others`` (gates); ``spine`` are the sums on the way if nothing but them changes the stream (else
    None), ``sums`` those on the way whatever else does; ``place`` is the longest module path that its
    operators share.
    """

    entry: Value
    exit: Value
    ops: tuple[Op, ...]
    named: tuple[Weight, ...]
    others: tuple[Weight, ...]
    coarse: str
    exact: str
    spine: tuple[Residual, ...] | None
    sums: tuple[Residual, ...] = ()

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (*self.named, *self.others)

    @property
    def place(self) -> str:
        return common_place(op.place for op in self.ops if op.place)


class Steps:
    """Cuts chains of residual sums into blocks."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.forms = Forms(streams)

    def bounds(self, chain: Sequence[Residual]) -> list[Value]:
        """The points of the stream between the sums of a chain, the end of the last one included."""
        out = [r.entry for r in chain]
        last = self._last_exit(chain)
        return out if last is None else [*out, last]

    def between(self, points: Sequence[Value]) -> list[Block]:
        """The blocks from each point to the next."""
        return [self.block(a, b) for a, b in pairwise(points)]

    def block(self, entry: Value, exit_: Value) -> Block:
        """What has to be repeated to repeat the way from ``entry`` to ``exit_``."""
        ops = self.streams.region(entry, exit_)
        form = self.forms.of(entry, exit_, ops)
        spine = self._spine(entry, exit_, set(ops))
        return Block(
            entry, exit_, tuple(ops), form.weights, form.others, form.coarse, form.exact, spine
        )

    # -- ends ------------------------------------------------------------------------------------

    def _last_exit(self, chain: Sequence[Residual]) -> Value | None:
        """Where the last step ends: as an earlier one does, else at its sum."""
        last = chain[-1]
        ends: dict[str, Value] = {}
        for r, following in pairwise(chain):
            end = self._follow(r.op.output, self._ungated(following.entry), last.op.output)
            if end is not None:
                ends.setdefault(self._coarse(r.entry, following.entry), self._gated(end))
        for coarse, end in ends.items():
            if self._coarse(last.entry, end) == coarse:
                return end
        options = [*ends.values(), self._gated(last.op.output)]
        return next((v for v in options if v.shape == last.entry.shape), None)

    def _coarse(self, entry: Value, exit_: Value) -> str:
        return self.forms.of(entry, exit_, self.streams.region(entry, exit_)).coarse

    def _ungated(self, v: Value) -> Value:
        """What a gate gates, where ``v`` is its result up to layout; else ``v``."""
        at = v
        while at.producer is not None and at.producer.kind in SAME:
            at = at.producer.inputs[0]
        gate = self.streams.gates.get(at.producer) if at.producer is not None else None
        return v if gate is None or gate.inner is None else gate.inner

    def _gated(self, v: Value) -> Value:
        for r in self.streams.gates.values():
            if r.inner is v:
                return r.op.output
        return v

    def _follow(self, start: Value, target: Value, other: Value) -> Value | None:
        """The value that is to ``other`` what ``target`` is to ``start``."""
        if start is target:
            return other
        mapped = {start: other}
        path = self.streams.cone(start, target)
        for op in sorted(path, key=self.streams.position.__getitem__):
            known = next((v for v in op.inputs if v in mapped), None)
            if known is None:
                return None
            twin = next((u for u, _ in mapped[known].uses if self._alike(op, u, mapped)), None)
            if twin is None:
                return None
            mapped.update(zip(op.outputs, twin.outputs, strict=True))
        return mapped.get(target)

    def _alike(self, a: Op, b: Op, mapped: dict[Value, Value]) -> bool:
        if a.kind != b.kind or len(a.inputs) != len(b.inputs):
            return False
        return self.forms.attrs(a) == self.forms.attrs(b) and all(
            mapped[x] is y if x in mapped else _leaf_alike(x, y)
            for x, y in zip(a.inputs, b.inputs, strict=True)
        )

    # -- the spine --------------------------------------------------------------------------------

    def _spine(self, entry: Value, exit_: Value, inside: set[Op]) -> tuple[Residual, ...] | None:
        """The sums between exit and entry, if with zero branches every value on the way is the entry.

        Layout and precision may change on the way, as long as no value is narrower than the entry.
        A relu is the identity on a stream whose entry comes from one.
        """
        out: list[Residual] = []
        v = exit_
        while v is not entry:
            p = v.producer
            if p is None or p not in inside or _width(v.dtype) < _width(entry.dtype):
                return None
            r = self.streams.gates.get(p) or self.streams.residuals.get(p)
            if r is not None and not r.scaled:
                out.append(r)
                v = r.entry
            elif r is None and (p.kind in SAME or (p.kind == "relu" and _rectified(entry))):
                v = p.inputs[0]
            else:
                return None
        return tuple(reversed(out))


def _rectified(v: Value) -> bool:
    while v.producer is not None and v.producer.kind in SAME:
        v = v.producer.inputs[0]
    return v.producer is not None and v.producer.kind == "relu"


def _width(dtype: str) -> int:
    return int("".join(filter(str.isdigit, dtype)) or 0) - (dtype == "bfloat16")


def _leaf_alike(x: Value, y: Value) -> bool:
    if isinstance(x, Weight):
        return isinstance(y, Weight) and x.shape == y.shape
    if isinstance(x, Literal):
        return isinstance(y, Literal) and x.shape == y.shape and bool((x.data == y.data).all())
    return x is y
