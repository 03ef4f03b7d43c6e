"""The residual split: every block k times, or every branch, each time with 1/k of it.

x + F(x) becomes k steps x + F(x) / k: Euler steps of dx/dt = F, of a k-th of the length. That is another
function. For branches f_1 .. f_s, one after another, which are repeated together, it differs by

    (k - 1) / (2 k) (sum_a J_a f_a + sum_{a < b} (J_a f_b - J_b f_a)) + higher orders of f,

for one branch (k - 1) / (2 k) J_F F, which grows with k to a half of J_F F. Branches that are repeated one
by one keep their order, and only the terms J_a f_a remain. The factor is folded into the weights nearest
the sums, so that no operator is added, or is a scalar of its own on every branch (``rewrite.sublayers``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import log

import numpy as np

from meristem.rewrite.edits import EditScript, WeightEdit
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight
from meristem.rewrite.lift import Lift
from meristem.rewrite.methods import Chosen
from meristem.rewrite.orders import interleave
from meristem.rewrite.residual import Residual, Streams
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block, Steps
from meristem.rewrite.zeros import zeroed

# What is linear in all of its terms together, in one factor, in its first operand.
_TERMS = frozenset({"add", "sub", "concat"})
_FACTORS = frozenset({"mul", "contract", "conv", "grouped_contract"})
_FIRST = frozenset(
    {"identity", "cast", "reshape", "permute", "expand", "slice", "neg", "div", "sum"}
)


@dataclass(frozen=True, eq=False)
class Unit:
    """What is there ``times`` times: a block of a stack, or its ``part``-th branch (from 1) and sum."""

    stack: Stack
    number: int
    part: int
    block: Block
    sums: tuple[Residual, ...]
    times: int

    def __str__(self) -> str:
        block = f"block {self.number} of {self.stack.name}"
        return f"sub-layer {self.part} of {block}" if self.part else block


def units(graph: Graph, eq: Equations, targets: Mapping[Stack, int], chosen: Chosen) -> list[Unit]:
    """What ``split`` repeats in stacks that grow to ``targets`` blocks, in order."""
    steps = Steps(Streams(graph, eq)) if chosen.parts else None
    out: list[Unit] = []
    for stack, target in targets.items():
        for i, k in enumerate(times(stack, target, parts=chosen.parts)):
            if k == 1:
                continue
            block = stack.blocks[i]
            if steps is None:
                out.append(Unit(stack, i, 0, block, block.spine or (), k))
                continue
            for part, r in enumerate(block.sums, 1):
                out.append(Unit(stack, i, part, steps.block(r.entry, r.op.output), (r,), k))
    return out


def times(stack: Stack, target: int, *, parts: bool = False) -> list[int]:
    """How often each block of a stack of ``target`` blocks is there; ``parts`` need no whole periods."""
    period = 1 if parts else stack.period
    order = interleave(stack.size // period, target // period)
    return [order.count(i // period) for i in range(stack.size)]


def check(unit: Unit, *, explicit: bool) -> None:
    """Raises NotPreserved where what is repeated is no x + F(x), or, with scalars that are folded, F is
    not linear in weights of its own."""
    if not unit.sums or any(r.scaled or (r.gate is not None and not unit.part) for r in unit.sums):
        why = "a norm, a gate or a factor follows its sums"
        use = "" if unit.part else "by=sublayer, which repeats every branch before them"
    elif explicit and any(isinstance(v, Literal) for r in unit.sums for v in r.branches):
        why, use = "its branches are summed with constants of the program", ""
    elif not explicit and _scalable(unit) is None:
        why = "its branches are not linear in weights of its own next to them"
        use = "scalars=explicit, which multiplies them by scalars"
    else:
        return
    use += ", or " * bool(use) + 'method="identity", which adds blocks that compute nothing yet'
    raise NotPreserved(
        f"{unit} cannot be split: {why}; use {use}",
        dimension=unit.stack.name,
        place=unit.block.place,
        reason="no weights scale the branches" if "linear" in why else "no residual sum",
    )


def adders(r: Residual) -> list[tuple[Op, Value]]:
    """The operator that adds each branch of a sum: the sum itself, or one whose result it adds on."""
    out, stack = [], [r.op]
    while stack:
        op = stack.pop()
        for v in op.inputs:
            if v in r.branches:
                out.append((op, v))
            elif v.producer is not None and v.producer.kind == "add" and v is not r.entry:
                stack.append(v.producer)
    return out


def folded(found: Iterable[Unit]) -> dict[Weight, tuple[int, float]]:
    """Weights that carry the factor: w becomes c + (w - c) / k, as weight -> (k, c)."""
    return {w: (u.times, c) for u in found for w, c in (_scalable(u) or {}).items()}


def _scalable(unit: Unit) -> dict[Weight, float] | None:
    """Weights in which all branches are linear together, with what each is when they vanish."""
    block = unit.block
    branches = [v for r in unit.sums for v in r.branches]
    own = zeroed(branches, block.ops, block.weights)
    if own is None or not set(own) <= set(block.named):
        return None
    return own if _linear(unit, own) else None


def _linear(unit: Unit, own: Mapping[Weight, float]) -> bool:
    """Does everything between the weights and the sums scale as they do?"""
    added = [pair for r in unit.sums for pair in adders(r)]
    reached: set[Value] = {w for w, c in own.items() if not c}
    sums = {r.op for r in unit.sums} | {op for op, _ in added}
    for op in unit.block.ops:
        hit = [i for i, v in enumerate(op.inputs) if v in reached]
        if op in sums:
            continue
        if any(own.get(v) for v in op.inputs if isinstance(v, Weight)):  # c + (w - c)
            if not any(isinstance(v, Literal) for v in op.inputs):
                return False
        elif not hit:
            continue
        elif op.kind in _TERMS:
            if len(hit) < len(op.inputs):
                return False
        elif not ((op.kind in _FACTORS and len(hit) == 1) or (op.kind in _FIRST and hit == [0])):
            return False
        reached.update(op.outputs)
    return all(v in reached for r in unit.sums for v in r.branches)


def fold(script: EditScript, weights: Mapping[Weight, tuple[int, float]]) -> None:
    """Add the factors to the recipes of a script."""
    known = {e.weight: i for i, e in enumerate(script.weights)}
    for w, (k, constant) in weights.items():
        same = Expansion(w.name, tuple(Lift(("atom", n, n)) for n in w.shape))
        edit = script.weights[known[w]] if w in known else WeightEdit(w, same)
        recipe = edit.expansion
        grids = [a.core.blocks() for a in recipe.axes]
        scales = {
            at: recipe.scales.get(at, 0.0) - log(k)
            for at in np.ndindex(*map(len, grids))
            if not any(fresh for g, i in zip(grids, at, strict=True) for _, fresh in g[i])
        }
        edit = replace(edit, expansion=replace(recipe, scales=scales, shift=-constant))
        if w in known:
            script.weights[known[w]] = edit
        else:
            script.weights.append(edit)


__all__ = ["Unit", "adders", "check", "fold", "folded", "times", "units"]
