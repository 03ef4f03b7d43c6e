"""Stacks: the repeated blocks of a residual stream, found by comparing the structure of its regions.

A block is what lies between two points of the stream. Blocks are compared twice: coarsely, by what they
do with weights of which shape, which says how many residual sums one block has; and exactly, with their
constants and their context (masks, rotary tables), which says how many blocks one period has: sliding
and global attention, plain and shifted windows alternate. Module paths only name the blocks, and part
blocks that never repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight
from meristem.rewrite.numbering import Numbering, last_number, number_blocks
from meristem.rewrite.residual import SAME, Residual, Streams
from meristem.rewrite.forms import Forms


@dataclass(eq=False)
class Block:
    """One step of a stream, from ``entry`` to ``exit``.

    ``named`` weights are read by nothing else, in an order that corresponds between equal blocks, then
    ``others`` (gates); ``spine`` are the sums on the way if nothing but them changes the stream (else
    None); ``place`` is the longest module path that its operators share.
    """

    entry: Value
    exit: Value
    ops: tuple[Op, ...]
    named: tuple[Weight, ...]
    others: tuple[Weight, ...]
    coarse: str
    exact: str
    spine: tuple[Residual, ...] | None

    @property
    def weights(self) -> tuple[Weight, ...]:
        return (*self.named, *self.others)

    @property
    def place(self) -> str:
        return common_path(op.place for op in self.ops if op.place)


@dataclass(eq=False)
class Stack:
    """Blocks one after another; it grows by whole periods of ``period`` blocks."""

    blocks: tuple[Block, ...]
    period: int
    numbering: Numbering | None
    place: str = ""
    number: int = 1  # among the stacks at the same place
    streams: Streams = field(repr=False, default=None)  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """How many blocks."""
        return len(self.blocks)

    @property
    def name(self) -> str:
        """``layers@place``, as dimensions are named."""
        base = f"layers@{self.place}" if self.place else "layers"
        return base if self.number == 1 else f"{base}#{self.number}"

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of all weights of all blocks."""
        return tuple(name for b in self.blocks for w in b.weights for name in w.names)


def find_stacks(graph: Graph, eq: Equations) -> list[Stack]:
    """All stacks of a graph, in order."""
    streams = Streams(graph, eq)
    finder = _Finder(streams)
    found: list[tuple[bool, int, list[Stack], set[Op]]] = []
    for chain in _chains(streams):
        stacks = finder.stacks(chain)
        ops = {op for s in stacks for b in s.blocks for op in b.ops}
        found.append((any(s.size > 1 for s in stacks), len(ops), stacks, ops))
    found.sort(key=lambda f: (f[0], f[1]), reverse=True)
    covered: set[Op] = set()
    out: list[Stack] = []
    for _, _, stacks, ops in found:
        if stacks and not ops & covered:
            covered |= ops
            out.extend(stacks)
    out.sort(key=lambda s: streams.position[s.blocks[0].ops[0]])
    count: dict[str, int] = {}
    for s in out:
        s.number = count[s.place] = count.get(s.place, 0) + 1
    return out


def common_path(paths: Iterable[str]) -> str:
    """The longest dotted path that all share."""
    rows = [p.split(".") for p in paths]
    if not rows:
        return ""
    same = [column[0] for column in zip(*rows, strict=False) if len(set(column)) == 1]
    whole = list(zip(*rows, strict=False))
    n = next((i for i, column in enumerate(whole) if len(set(column)) > 1), len(whole))
    return ".".join(same[:n])


def _chains(streams: Streams) -> list[list[Residual]]:
    """Sums that follow one another, longest first; each sum ends up in at most one chain as a follower."""
    length: dict[Op, int] = {}
    for op in streams.residuals:
        before = streams.previous.get(op)
        length[op] = 1 + (length.get(before[0], 0) if before else 0)
    used: set[Op] = set()
    out = []
    for op in sorted(length, key=lambda o: (length[o], streams.position[o]), reverse=True):
        chain = []
        at: Op | None = op
        while at is not None and at not in used:
            chain.append(at)
            used.add(at)
            before = streams.previous.get(at)
            at = before[0] if before else None
        if chain:
            out.append([streams.residuals[o] for o in reversed(chain)])
    return out


class _Finder:
    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.forms = Forms(streams)

    def stacks(self, chain: Sequence[Residual]) -> list[Stack]:
        bounds = [r.entry for r in chain]
        last = self._last_exit(chain)
        if last is None:
            chain = chain[:-1]
        else:
            bounds.append(last)
        steps = [self.block(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        out = []
        for start, period, count in _runs([s.coarse for s in steps]):
            if count > 1:
                out.append(self._stack(bounds[start : start + period * count + 1], period))
            else:
                out.extend(self._single(bounds[start : start + period + 1], steps[start:][:period]))
        return [s for s in out if s is not None]

    def block(self, entry: Value, exit_: Value) -> Block:
        ops = self.streams.region(entry, exit_)
        form = self.forms.of(entry, exit_, ops)
        spine = self._spine(entry, exit_, set(ops))
        return Block(
            entry, exit_, tuple(ops), form.weights, form.others, form.coarse, form.exact, spine
        )

    def _stack(self, bounds: Sequence[Value], period: int) -> Stack | None:
        """The smallest multiple of the period whose blocks are numbered; else the period."""
        steps = len(bounds) - 1
        options = [m for m in range(period, steps, period) if steps % m == 0]
        made = []
        for m in options:
            points = bounds[::m]
            blocks = [self.block(a, b) for a, b in zip(points, points[1:], strict=False)]
            numbering = number_blocks([b.named for b in blocks])
            made.append((blocks, numbering))
            if numbering is not None:
                return self._finish(blocks, numbering)
        return self._finish(*made[0])

    def _single(self, bounds: Sequence[Value], steps: Sequence[Block]) -> list[Stack | None]:
        """Steps that do not repeat: parted where their module's number changes."""
        keys = [last_number(common_path(_names(s.weights))) for s in steps]
        if any(k is None for k in keys):
            keys = [None for _ in keys]
        out, at = [], 0
        for _, group in groupby(keys):
            n = len(list(group))
            block = self.block(bounds[at], bounds[at + n])
            out.append(self._finish([block], number_blocks([block.named])))
            at += n
        return out

    def _finish(self, blocks: Sequence[Block], numbering: Numbering | None) -> Stack | None:
        if any(b.entry.shape != b.exit.shape or b.entry.dtype != b.exit.dtype for b in blocks):
            return None
        place = common_path(p for b in blocks for p in [b.place] if p)
        if len(blocks) == 1:
            found = last_number(place)
            place = found[0] if found else place
        return Stack(
            tuple(blocks), _period([b.exact for b in blocks]), numbering, place, 1, self.streams
        )

    # -- ends ------------------------------------------------------------------------------------

    def _last_exit(self, chain: Sequence[Residual]) -> Value | None:
        """Where the last step ends: as an earlier one does, else at its sum."""
        last = chain[-1]
        seen: dict[str, Value] = {}
        wanted = {}
        for r, following in zip(chain, chain[1:], strict=False):
            target = self._ungated(following.entry)
            end = self._follow(r.op.output, target, last.op.output)
            if end is not None:
                end = self._gated(end)
                wanted[self.forms.of(r.entry, following.entry, self.streams.region(
                    r.entry, following.entry)).coarse] = end
                seen.setdefault("first", end)
        for coarse, end in wanted.items():
            ops = self.streams.region(last.entry, end)
            if self.forms.of(last.entry, end, ops).coarse == coarse:
                return end
        if not wanted or last.op.output.shape == last.entry.shape:
            end = self._gated(last.op.output)
            return end if end.shape == last.entry.shape else None
        return seen["first"]

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


def _names(weights: Iterable[Weight]) -> list[str]:
    return [w.name.rpartition(".")[0] for w in weights]


def _runs(marks: Sequence[str]) -> list[tuple[int, int, int]]:
    """(start, period, count) of repeats, covering most first from the left; the rest with count one."""
    out: list[tuple[int, int, int]] = []
    i, n = 0, len(marks)
    while i < n:
        best = (0, 0, 1)  # coverage, -period, count
        for p in range(1, (n - i) // 2 + 1):
            k = 1
            while marks[i + k * p : i + (k + 1) * p] == marks[i : i + p]:
                k += 1
            if k > 1:
                best = max(best, (k * p, -p, k))
        if best[2] > 1:
            out.append((i, -best[1], best[2]))
            i += best[0]
        elif out and out[-1][2] == 1:
            out[-1] = (out[-1][0], out[-1][1] + 1, 1)
            i += 1
        else:
            out.append((i, 1, 1))
            i += 1
    return out


def _period(marks: Sequence[str]) -> int:
    """After how many blocks the exact structure repeats; a special beginning does not count.

    Where nothing repeats, the whole stack is one period.
    """
    n = len(marks)
    for q in range(1, n):
        if all(a == b for a, b in zip(marks, marks[q:], strict=False)):
            return q
    for q in range(1, n // 2 + 1):
        if marks[n - q :] == marks[n - 2 * q : n - q]:
            return q
    return n
