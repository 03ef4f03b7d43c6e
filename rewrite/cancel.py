"""New residual blocks that are exactly zero with weights that are not: halves that cancel.

Along an inner axis of a block (hidden units, heads, channels) the second half of the coordinates repeats
the first, [v, v], and the weights nearest to the sum hold opposite halves, [z, -z] (LEMON's depth
expansion, arXiv:2310.07999):

    f(x [V, V]) [Z; -Z] = f(x V) Z - f(x V) Z = 0.

Whether a block can be made so is proved with the flow of width growth. Its inner atoms of size n are taken
to 2 n by the strategy ``halves``: the n fresh coordinates are those of the new block, the n old ones not
there (``Growth.phantom``), and no old result has to be kept. What remains is one obligation, that every
branch is zero; its solution says which weights hold equal halves and which opposite ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meristem.rewrite.axes import Term, atoms_of, find
from meristem.rewrite.blocks import Growth
from meristem.rewrite.cell import OPPOSITE, PAIR, ZERO, Cell, Cells
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, Assignment, Formula, all_of, any_of, var
from meristem.rewrite.graph import Input, Op, Value, Weight
from meristem.rewrite.lift import Lift
from meristem.rewrite.made import Constant, Made, Rebuilt
from meristem.rewrite.planner import compatible
from meristem.rewrite.registry import semantics
from meristem.rewrite.scale import Linear
from meristem.rewrite.semantics.contraction import labels_of
from meristem.rewrite.semantics.elementwise import Row
from meristem.rewrite.shares import stored_behind
from meristem.rewrite.steps import Block

# Operators through which a stored tensor is followed to where it is added.
_MOVES = frozenset({"identity", "cast", "reshape", "permute", "expand"})
# Operators that read no coordinate of a grown axis by its number: halves need no more than their rules.
_BLIND = frozenset(
    {
        *(
            "contract",
            "conv",
            "grouped_contract",
            "reshape",
            "permute",
            "expand",
            "slice",
            "concat",
        ),
        *("norm", "softmax", "sum", "pool", "full"),
    }
)


def cancelled(eq: Equations, block: Block, name: str) -> dict[Weight, Made]:
    """Recipes that make every branch of a copy of ``block`` zero by halves that cancel.

    ``name`` is the stack's. Raises NotPreserved where a norm follows a sum, where no inner axis of two or
    more coordinates is summed by weights of the block, and where the halves are not proved to cancel.
    """
    if block.spine is None or any(r.scaled or r.gate is not None for r in block.spine):
        raise _refused(block, name, "a norm or a gate follows its sum, so zero branches change x")
    branches = [v for r in block.spine for v in r.branches]
    stream = {t for v in (block.entry, block.exit, *branches) for t in _atoms(eq, v)}
    inner = [t for t in _summed(eq, block) if t not in stream and t.size > 1 and not t.pins]
    if not inner:
        raise _refused(
            block,
            name,
            "no axis of two or more coordinates of its own is summed by weights of its own",
        )
    growth = Growth({t: 2 * t.size for t in inner}, dict.fromkeys(inner, "halves"))
    flow = _Halves(eq, growth, own=frozenset(block.weights), inside=block.ops)
    flow.run()
    assignment = Assignment(compatible)
    for v in branches:
        wanted = all_of(c.zero for c in flow.of(v).flat)
        assignment.holds(wanted)
        if wanted is FALSE or not assignment.choose(wanted):
            where = v.producer.where if v.producer is not None else v.name
            raise _refused(block, name, f"it is not proved that halves cancel in {where}")
    _check_training(flow, assignment, block, name)
    return {w: made for w in block.weights if (made := _made(w, flow, assignment)) is not None}


def _refused(block: Block, name: str, why: str) -> NotPreserved:
    return NotPreserved(
        f"a new block of {name} cannot be zero by halves that cancel: {why}; use "
        'method="identity", whose new blocks are zero by zero weights, or stand behind a gate',
        dimension=name,
        place=block.place,
        reason=why,
    )


def _atoms(eq: Equations, v: Value) -> set[Term]:
    return {a for t in eq.of(v) for a in atoms_of(t)}


def _summed(eq: Equations, block: Block) -> Iterator[Term]:
    """Atoms that contractions with stored tensors sum over, each once."""
    seen: set[Term] = set()
    for op in block.ops:
        for side, v in enumerate(op.inputs[:2]):
            if not stored_behind(v):
                continue
            if op.kind == "contract":
                labels = labels_of(op)
                axes = [i for i, k in enumerate(labels[side]) if k not in labels[2]]
            else:
                axes = {"conv": [2], "grouped_contract": [1]}.get(op.kind, [])
            for t in (a for i in axes for a in atoms_of(eq.of(v)[i])):
                if t not in seen:
                    seen.add(t)
                    yield t


@dataclass
class _Halves(Flow):
    """The flow through one block whose inner atoms hold halves.

    ``own`` weights may hold equal or opposite halves, or be zero where they are only added (a bias, a
    running mean). What comes from outside is known by its axes: along a half it is unknown, unless it is
    constant there.
    """

    own: frozenset[Weight] = frozenset()
    inside: tuple[Op, ...] = ()
    zeros: dict[Value, Formula] = field(default_factory=dict)

    def run(self) -> Flow:
        for op in self.inside:
            self._step(op)
        return self

    def _step(self, op: Op) -> None:
        outer, self.op = self.op, op
        blind = isinstance(semantics(op.kind), Row) or op.kind in _BLIND
        if (blind and not op.attrs.get("dynamic")) or not self._halved(op):
            semantics(op.kind).transfer(op, self)
        else:
            for v in op.outputs:
                self.set(v, self._outside(v))
        self.op = outer

    def _halved(self, op: Op) -> bool:
        """Has any operand or result an axis of halves?"""
        values = (*op.inputs, *op.outputs)
        return any(self.growth.touches(t) for v in values for t in self.eq.of(v))

    def of(self, value: Value) -> Cells:
        if value not in self.cells and value.producer is not None:
            if any(self.growth.touches(t) for t in self.eq.of(value)):
                self._step(value.producer)  # a mask or a table that is made outside
            else:
                self.cells[value] = self._outside(value)
        return super().of(value)

    def _outside(self, value: Value) -> Cells:
        return self.build(
            value, lambda _, fresh: self.unknown(fresh) if fresh else Cell(scale=None)
        )

    def _leaf(self, value: Value) -> Cells:
        return self._outside(value) if isinstance(value, Input) else super()._leaf(value)

    def _weight(self, w: Weight) -> Cells:
        if w not in self.own or not w.is_float:
            return self._outside(w)
        added = _only_added(w)

        def make(index: tuple[int, ...], fresh: Any) -> Cell:
            zero = var((w, index), ZERO) if added else FALSE
            twins = (any_of([var((w, index), f"{PAIR}{k}"), zero]) for k in range(len(fresh)))
            opposite = (
                any_of([var((w, index), f"{OPPOSITE}{k}"), zero]) for k in range(len(fresh))
            )
            return Cell(zero, tuple(twins), None, opposites=tuple(opposite))

        return self.build(w, make)

    # Nothing old has to stay what it was: only the branches' zeros are asked for.

    def fail(self, why: str, atoms: Any = ()) -> None:
        return

    def nearly(self, why: str, atoms: Any = ()) -> None:
        return

    def oblige(self, formula: Formula, why: str, atoms: Any = ()) -> None:
        return

    def equal_scales(self, scales: Any, why: str) -> Linear | None:
        return None

    def require_unscaled(self, scale: Linear | None, why: str) -> None:
        return


def _only_added(w: Weight) -> bool:
    """Is a stored tensor a term of sums and nothing else?"""
    waiting: list[Value] = [w]
    while waiting:
        for op, _ in waiting.pop().uses:
            if op.kind in _MOVES:
                waiting.append(op.output)
            elif op.kind not in ("add", "sub"):
                return False
    return True


def _check_training(flow: _Halves, assignment: Assignment, block: Block, name: str) -> None:
    """Zeros on the way must be no poles, and let gradients through: no flat function, no product of two."""
    assert block.spine is not None
    sums = {r.op for r in block.spine}
    zero: set[Value] = set()
    after: set[Value] = set()  # what depends on a zero
    for op in block.ops:
        entry = semantics(op.kind)
        if op in sums:
            continue
        if any(v in zero for v in op.inputs) or any(v in after for v in op.inputs):
            after.update(op.outputs)
        rule = entry.vanishes(op)
        both = rule.any and sum(op.inputs[i] in zero for i in rule.operands) > 1
        if (
            both
            or any(op.inputs[i] in after | zero for i in entry.poles(op))
            or any(op.inputs[i] in zero for i in entry.stalls(op))
        ):
            raise _refused(block, name, f"no gradient would pass the zeros at {op.where}")
        zero |= {v for v in op.outputs if _vanishes(flow, assignment, v)}


def _vanishes(flow: _Halves, assignment: Assignment, v: Value) -> bool:
    cells = flow.cells.get(v)
    if cells is None:
        return False
    real = [cells[i] for i in np.ndindex(cells.shape) if not _phantom(flow, v, i)]
    return all(assignment.holds(c.zero) is True for c in real)


def _phantom(flow: _Halves, v: Value, index: Iterable[int]) -> bool:
    grid = flow.grid(v)
    return any(flow.growth.phantom(d) for axis, i in enumerate(index) for d in grid[axis][i].digits)


def _made(w: Weight, flow: _Halves, assignment: Assignment) -> Made | None:
    """The recipe of one weight of the copy; None for a plain copy."""
    if not any((w, i) in assignment.held for i in np.ndindex(*map(len, flow.grid(w)))):
        return None
    number = [
        {
            i: n
            for n, i in enumerate(
                j for j, b in enumerate(g) if not any(map(flow.growth.phantom, b.digits))
            )
        }
        for g in flow.grid(w)
    ]
    fills: dict[tuple[int, ...], Fill] = {}
    old: list[bool] = []
    for index in np.ndindex(*map(len, flow.grid(w))):
        if _phantom(flow, w, index):
            continue
        held = assignment.held.get((w, index), set())
        at = tuple(n[i] for n, i in zip(number, index, strict=True))
        if flow.fresh_digits(flow.grid(w), index):
            fills[at] = _fill(held)
        else:
            old.append(ZERO in held)
    if all(old) and all(f.kind == "zero" for f in fills.values()):
        return Constant(0.0)
    if any(old):
        raise NotPreserved(f"{w.name} would have to be zero in a part of it alone", weight=w.name)
    lifts = tuple(Lift(_nested(t, flow.growth.sizes)) for t in flow.eq.of(w))
    return Rebuilt(Expansion(w.name, lifts, fills))


def _fill(held: set[str]) -> Fill:
    if ZERO in held:
        return Fill("zero")
    pairs = [(int(p.removeprefix(PAIR)), 1) for p in held if p.startswith(PAIR)]
    pairs += [(int(p.removeprefix(OPPOSITE)), -1) for p in held if p.startswith(OPPOSITE)]
    return Fill("same", pairs=tuple(sorted(pairs)))


def _nested(t: Term, halves: Mapping[Term, int]) -> Any:
    t = find(t)
    if t.kind != "atom":
        return (t.kind, *(_nested(p, halves) for p in t.parts))
    return ("whole" if t in halves else "atom", t.size, t.size)


__all__ = ["cancelled"]
