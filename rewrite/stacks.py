"""Stacks: the repeated blocks of a residual stream, found by comparing the structure of its regions.

A block is what lies between two points of the stream. Blocks are compared twice: coarsely, by what they
do with weights of which shape, which says how many residual sums one block has; and exactly, with their
constants and their context (masks, rotary tables), which says how many blocks one period has: sliding
and global attention, plain and shifted windows alternate. Module paths only name the blocks, and part
blocks that never repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from meristem.rewrite.dimensions import common_place
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Op, Value
from meristem.rewrite.numbering import Numbering, last_number, module_of, number_blocks
from meristem.rewrite.residual import Residual, Streams
from meristem.rewrite.shares import stored_behind
from meristem.rewrite.steps import Block, Steps


@dataclass(eq=False)
class Stack:
    """Blocks one after another; it grows by whole periods of ``period`` blocks."""

    blocks: tuple[Block, ...]
    period: int
    numbering: Numbering | None
    place: str = ""
    number: int = 1  # among the stacks at the same place

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
        self.streams, self.steps = streams, Steps(streams)

    def stacks(self, chain: Sequence[Residual]) -> list[Stack]:
        """The stacks along one chain, in order."""
        bounds = self.steps.bounds(chain)
        steps = self.steps.between(bounds)
        out: list[Stack | None] = []
        for start, period, count in _runs([s.coarse for s in steps]):
            points = bounds[start : start + period * count + 1]
            numbered = self._numbered(points, steps[start : start + period * count], count)
            if numbered is not None:
                out.append(numbered)
            elif count > 1:
                out.append(self._repeated(points, period))
            else:
                out.append(self._stack(self.steps.between([points[0], points[-1]]), None))
        found = [s for s in out if s is not None]
        for block in (b for s in found for b in s.blocks):
            inside = set(block.ops)
            block.sums = tuple(r for r in chain if r.op in inside)
        return found

    def _numbered(
        self, bounds: Sequence[Value], steps: Sequence[Block], repeats: int
    ) -> Stack | None:
        """One block for each number of the steps' modules, where these count on in one container.

        Such blocks may differ (windows at the border of an image, a dense layer before mixtures);
        whole repeats must stay whole.
        """
        keys = [module_of(s.named) for s in steps]
        points, found = [bounds[0]], []
        for key, group in groupby(zip(keys, bounds[1:], strict=True), key=lambda pair: pair[0]):
            found.append(key)
            points.append(list(group)[-1][1])
        first = {(k[0], k[1] - i) for i, k in enumerate(found) if k is not None}
        if None in found or len(first) != 1 or len(found) % repeats:
            return None
        return self._stack(self.steps.between(points), Numbering((first.pop(),), 1))

    def _repeated(self, bounds: Sequence[Value], period: int) -> Stack | None:
        """The smallest multiple of the period whose blocks are numbered; else the period."""
        steps = len(bounds) - 1
        first = None
        for m in range(period, steps, period):
            if steps % m == 0:
                blocks = self.steps.between(bounds[::m])
                numbering = number_blocks([b.named for b in blocks])
                if numbering is not None:
                    return self._stack(blocks, numbering)
                first = first or blocks
        return self._stack(first or [], None)

    def _stack(self, blocks: Sequence[Block], numbering: Numbering | None) -> Stack | None:
        """None where the stream changes its shape or type on the way, or nothing in it is learned."""
        same = all(b.entry.shape == b.exit.shape and b.entry.dtype == b.exit.dtype for b in blocks)
        read = (stored_behind(v) for b in blocks for op in b.ops for v in op.inputs)
        if not blocks or not same or not any(w and w.role == "parameter" for w in read):
            return None
        place = common_place(p for b in blocks for p in [b.place] if p)
        if len(blocks) == 1:
            found = last_number(place)
            place = found[0] if found else place
        return Stack(tuple(blocks), _period([b.exact for b in blocks]), numbering, place)


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
