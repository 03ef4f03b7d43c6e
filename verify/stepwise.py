"""What a graph says of a model that takes a sequence part by part, with a cache of the positions before.

No names: a cache is an input that moves and concatenations alone carry to an output of its shape but for
one dynamic axis, by which the output is longer; as much longer is the sequence that goes in. Other inputs
have axes of that length, or of the sequence and the past together (masks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from meristem.rewrite.graph import Graph, Input, Value
from meristem.verify.signature import Field

_CARRY = frozenset(("identity", "cast", "reshape", "permute", "concat"))
BATCH, SEQUENCE, TOTAL, PAST = "batch", "sequence", "total", "past"


@dataclass(frozen=True)
class Cache:
    """The input ``given`` comes out again as output number ``made``, longer along ``axis``."""

    given: str
    made: int
    axis: int


@dataclass(frozen=True)
class Stepwise:
    """A model with a cache.

    ``roles`` are those of the axes of every input, empty where an axis is fixed; ``results`` are the other
    outputs with their axis of the sequence. ``fixed`` is the length that goes in where it is not dynamic.
    """

    caches: tuple[Cache, ...]
    fields: tuple[Field, ...]
    roles: dict[str, tuple[str, ...]]
    results: dict[int, int]
    fixed: int | None = None

    def shape(self, f: Field, past: int, count: int, batch: int) -> tuple[int, ...]:
        """The shape of an input for ``count`` positions behind ``past`` others."""
        sizes = {BATCH: batch, SEQUENCE: count, TOTAL: past + count, PAST: past}
        return tuple(
            sizes[r] if r else n if isinstance(n, int) else batch
            for r, n in zip(self.roles[f.name], f.shape, strict=True)
        )

    def axis(self, name: str, role: str) -> int | None:
        """The axis of an input that has a role."""
        return self.roles[name].index(role) if role in self.roles[name] else None

    def tied(self) -> list[Field]:
        """The inputs with one symbol for the past, one for the sequence, and the total as their sum."""
        symbols: dict[str, str] = {}
        for f in self.fields:
            for role, n in zip(self.roles[f.name], f.shape, strict=True):
                if isinstance(n, str):
                    symbols.setdefault(role, n)
        count = symbols.get(SEQUENCE, str(self.fixed))
        symbols[TOTAL] = f"{symbols[PAST]} + {count}"
        out = []
        for f in self.fields:
            pairs = zip(self.roles[f.name], f.shape, strict=True)
            shape = tuple(symbols.get(r, n) if isinstance(n, str) else n for r, n in pairs)
            out.append(replace(f, shape=shape))
        return out


def stepwise(graph: Graph, fields: Sequence[Field]) -> Stepwise | None:
    """The cache of a model; None where it has none."""
    numbers = {v: k for k, (_, v) in enumerate(graph.outputs)}
    found: list[tuple[Cache, int]] = []
    for given in graph.inputs:
        for made in _carried(given):
            axis = _longer(given, made) if made in numbers else None
            if axis is not None:
                more = made.shape[axis] - given.shape[axis]
                found.append((Cache(given.name, numbers[made], axis), more))
                break
    counts = {more for _, more in found}
    if len(counts) != 1:
        return None
    (count,) = counts
    caches = tuple(c for c, _ in found)
    at = {c.given: c.axis for c in caches}
    batch = {v.dynamic[0] for v in graph.inputs if v.name in at and 0 in v.dynamic}
    roles = {f.name: _roles(f, count, batch, at.get(f.name)) for f in fields}
    dynamic = any(
        r == SEQUENCE and isinstance(n, str)
        for f in fields
        for r, n in zip(roles[f.name], f.shape, strict=True)
    )
    if not any(SEQUENCE in r for r in roles.values()):
        return None
    taken = {c.made for c in caches}
    results = {}
    for k, (_, v) in enumerate(graph.outputs):
        axes = [a for a, n in enumerate(v.shape) if a and n == count]
        if k not in taken and v.is_float and axes:
            results[k] = axes[0]
    return Stepwise(caches, tuple(fields), roles, results, None if dynamic else count)


def _carried(given: Value) -> Iterator[Value]:
    """What moves and concatenations make of an input, nearest first."""
    waiting, seen = [given], {given}
    while waiting:
        value = waiting.pop(0)
        for op, _ in value.uses:
            for out in op.outputs if op.kind in _CARRY else ():
                if out not in seen:
                    seen.add(out)
                    waiting.append(out)
                    yield out


def _longer(given: Input, made: Value) -> int | None:
    """The one axis along which the output is longer, if the input's is dynamic there."""
    if not given.is_float or len(given.shape) != len(made.shape):
        return None
    axes = [a for a, (n, m) in enumerate(zip(given.shape, made.shape, strict=True)) if n != m]
    one = len(axes) == 1 and axes[0] in given.dynamic and made.shape[axes[0]] > given.shape[axes[0]]
    return axes[0] if one else None


def _roles(f: Field, count: int, batch: set[str], cache: int | None) -> tuple[str, ...]:
    out = []
    for axis, (n, traced) in enumerate(zip(f.shape, f.traced, strict=True)):
        dynamic = isinstance(n, str)
        if axis == cache:
            out.append(PAST)
        elif dynamic and (n in batch or (axis == 0 and len(f.shape) > 1)):
            out.append(BATCH)
        elif cache is None and f.use != "float" and traced == count and (dynamic or axis):
            out.append(SEQUENCE)
        elif cache is None and dynamic:
            out.append(SEQUENCE if traced == count else TOTAL)
        else:
            out.append("")
    return tuple(out)


__all__ = ["BATCH", "PAST", "SEQUENCE", "TOTAL", "Cache", "Stepwise", "stepwise"]
