"""The residual split in the program: copies of branches in place, and scalars on branches.

A branch is repeated between the value that it reads and its sum, before what comes next: the next branch,
or a norm where one follows the sum. Scalars are parameters, named like the module that makes the branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meristem.rewrite.depth import CloneEdit, DepthReport, DepthScript
from meristem.rewrite.graph import Graph, Op, Value
from meristem.rewrite.numbering import within
from meristem.rewrite.repeat import ScaleEdit
from meristem.rewrite.residual import SAME, Residual
from meristem.rewrite.split import Unit, adders
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block

# Operators of a sum's own node that only repeat what it reads.
_MOVES = SAME | {"expand"}


@dataclass(eq=False, kw_only=True)
class _Copy(CloneEdit):
    """A copy inside of a block: a weight outside of its modules stays in its module under another name."""

    def name(self, old: str) -> str:
        return super().name(old) if within(old, self.modules) else f"{old}_{self.tag}"


@dataclass(frozen=True)
class SplitReport(DepthReport):
    """What splitting the branches of one stack does: ``layers`` are the places that are new."""

    layers: tuple[str, ...] = ()

    @property
    def inexact(self) -> str:
        return f"{self.stack} {self.old} -> {self.new}, branch by branch"

    def __str__(self) -> str:
        return f"{self.inexact}: new in the same blocks are {', '.join(self.layers)}"


def plan_sublayers(graph: Graph, found: Sequence[Unit], sizes: Mapping[Stack, int]) -> DepthScript:
    """The edit script that repeats every branch of ``found`` in place."""
    script = DepthScript()
    stored = {n for w in (*graph.weights, *graph.unused) for n in w.names}
    taken = set(stored)
    made: dict[Stack, list[str]] = {}
    for unit in found:
        alone = Stack((unit.block,), 1, None, unit.block.place)
        names = [n for w in unit.block.weights for n in w.names]
        modules = _modules(unit.block, names, stored)
        number = 0
        for rank in range(unit.times - 1):
            while True:
                tag = f"grown{number + 1}"
                clone = _Copy(
                    block=unit.block, tag=tag, stack=alone, source=0, position=1, rank=rank,
                    after=unit.block.exit, modules={m: f"{m}_{tag}" for m in modules},
                )  # fmt: skip
                number += 1
                if not taken & {clone.name(n) for n in names}:
                    break
            taken |= {clone.name(n) for n in names}
            script.clones.append(clone)
            new = [*clone.modules.values(), *(n for n in names if not within(n, modules))]
            made.setdefault(unit.stack, []).extend(
                n if n in clone.modules.values() else clone.name(n) for n in new
            )
    for stack, new in made.items():
        script.reports.append(
            SplitReport(stack.name, stack.size, sizes[stack], (), (), (), (), layers=tuple(new))
        )
    return script


def _modules(block: Block, own: Iterable[str], stored: Iterable[str]) -> list[str]:
    """The largest modules in the block's place whose stored tensors are all the block's own."""
    own = set(own)
    used = {n for n in stored if n.rpartition(".")[2] != "num_batches_tracked"}
    out: dict[str, None] = {}
    for name in sorted(own):
        best, at = "", name.rpartition(".")[0]
        while at and within(at, [block.place] if block.place else [at]):
            if not {n for n in used if within(n, [at])} <= own:
                break
            best, at = at, at.rpartition(".")[0]
        if best:
            out[best] = None
    return [m for m in out if not any(m != k and within(m, [k]) for k in out)]


def scalars(graph: Graph, found: Sequence[Unit]) -> list[ScaleEdit]:
    """A scalar 1/k on every branch that is there k times."""
    taken = {n for w in (*graph.weights, *graph.unused) for n in w.names}
    out: list[ScaleEdit] = []
    for unit in found:
        block = unit.stack.blocks[unit.number]
        cones = {v: _cone(block, r, v) for r in block.sums for v in r.branches}
        for r in unit.sums:
            for op, v in adders(r):
                own = [o for o in block.ops if o in cones[v]]
                others = {o.place for u, ops in cones.items() if u is not v for o in ops - cones[v]}
                home = _home(unit.stack, unit.number, own, others)
                name, number = f"{home}.scale".lstrip("."), 1
                while name in taken:
                    number += 1
                    name = f"{home}.scale{number}".lstrip(".")
                taken.add(name)
                out.append(ScaleEdit(op, _shown(v, op), name, 1 / unit.times))
    return out


def _shown(v: Value, op: Op) -> Value:
    """What the node of an operator reads where the view moves it to other axes first."""
    while v.producer is not None and v.producer.native is op.native and v.producer.kind in _MOVES:
        v = v.producer.inputs[0]
    return v


def _cone(block: Block, r: Residual, v: Value) -> set[Op]:
    """What a block computes for one branch from the stream."""
    inside, ends = set(block.ops), {s.op for s in block.sums} | {r.entry.producer}
    seen: set[Op] = set()
    stack = [v]
    while stack:
        op = stack.pop().producer
        if op is not None and op in inside and op not in ends and op not in seen:
            seen.add(op)
            stack.extend(op.inputs)
    return seen


def _home(stack: Stack, number: int, ops: Sequence[Op], others: Iterable[str]) -> str:
    """The largest module inside of a block that makes this branch and takes part in no other."""
    block = stack.blocks[number]
    top = next(iter(stack.numbering.of(number)), "") if stack.numbering else block.place
    # Dropouts are the identity here, and files do not have them.
    made = [o.place for o in reversed(ops) if o.place and o.kind != "identity"]
    home = next((p for p in made if not top or within(p, [top])), top or stack.place)
    while home != top and home.rpartition(".")[0]:
        up = home.rpartition(".")[0]
        if any(within(p, [up]) for p in others):
            break
        home = up
    return home


__all__ = ["SplitReport", "plan_sublayers", "scalars"]
