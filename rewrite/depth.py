"""Growing a stack by copies of its blocks that compute nothing yet.

A new block is x + B(x) with the factor of B nearest to the sum zero (arXiv:2308.06103): it is exactly the
identity, and the zeroed weights learn from the first step on. Where a norm follows the sum, or no weight
of its own makes B zero, the block stands behind a gate: x + g * (B(x) - x) with one new number g = 0
(docs/onnx.md). With an order (``rewrite.orders``) copies compute at once instead, which is no preservation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from meristem.rewrite.cancel import cancelled
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved, SizeError
from meristem.rewrite.graph import Graph, Value, Weight
from meristem.rewrite.made import Constant, Fresh, Rebuilt, Woken, sleeping
from meristem.rewrite.numbering import replaced
from meristem.rewrite.orders import copies
from meristem.rewrite.outside import own_inputs, own_outputs
from meristem.rewrite.renumber import renumber
from meristem.rewrite.repeat import Repeat, ScaleEdit
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block
from meristem.rewrite.zeros import before, factors, zeroed

At = str | Sequence[int]


@dataclass(eq=False, kw_only=True)
class CloneEdit(Repeat):
    """A copy of a block between ``after`` and everything that reads it (and earlier copies there).

    ``source`` is the number of the block in its stack, ``rank`` how many copies precede it there.
    """

    stack: Stack
    source: int
    position: int
    rank: int
    after: Value

    @staticmethod
    def of(stack: Stack, source: int, position: int, rank: int, after: Value) -> CloneEdit:
        """A copy of the block of that number."""
        return CloneEdit(
            block=stack.blocks[source], tag=f"grown{rank + 1}", stack=stack, source=source,
            position=position, rank=rank, after=after,
        )  # fmt: skip


@dataclass(frozen=True)
class DepthReport:
    """What one stack's growth does, in plain data."""

    stack: str
    old: int
    new: int
    positions: tuple[int, ...]
    sources: tuple[int, ...]
    zeroed: tuple[str, ...]
    gates: tuple[str, ...]
    order: str = ""
    halves: tuple[str, ...] = ()
    # Inputs that copies read as their sources do, and outputs that only their sources return.
    reads: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()

    @property
    def inexact(self) -> str:
        """What does not preserve the function, in words; empty where all of it does."""
        change = f"{self.stack} {self.old} -> {self.new} in the order {self.order}"
        return change if self.order else ""

    def __str__(self) -> str:
        pairs = ", ".join(
            f"a copy of block {s} before block {p}"
            if p < self.old
            else f"a copy of block {s} at the end"
            for p, s in zip(self.positions, self.sources, strict=True)
        )
        how = f"zero: {', '.join(self.zeroed)}" if self.zeroed else ""
        halves = f"halves that cancel: {', '.join(self.halves)}" if self.halves else ""
        gate = f"gates at zero: {', '.join(self.gates)}" if self.gates else ""
        order = f"they compute at once, in the order {self.order}" if self.order else ""
        reads = (
            f"they read {_some(self.reads)} as the blocks that they copy do" if self.reads else ""
        )
        returns = f"only the old blocks return {_some(self.returns)}" if self.returns else ""
        rest = "; ".join(p for p in (halves, how, gate, order, reads, returns) if p)
        return f"{self.stack} {self.old} -> {self.new}: {pairs}; {rest}"


@dataclass
class DepthScript:
    """Everything that a growth in depth changes.

    ``moves`` renames the modules that stand behind new blocks; ``kept`` are names inside of them that
    belong to the whole stack (a table of positions in its first block) and stay. ``scales`` are scalars on
    branches, in the source's blocks and in the copies of these.
    """

    clones: list[CloneEdit] = field(default_factory=list)
    moves: dict[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    reports: list[DepthReport] = field(default_factory=list)
    scales: list[ScaleEdit] = field(default_factory=list)

    def moved(self, name: str) -> str:
        """The name of a stored tensor of the source after growth."""
        return name if name in self.kept else replaced(name, self.moves)

    @property
    def weights(self) -> dict[str, tuple[str, str]]:
        """New weights: name -> (name of the source or "", the text of the recipe)."""
        out: dict[str, tuple[str, str]] = {}
        for c in self.clones:
            for w in c.block.weights:
                source = c.origins.get(w)
                out.update(
                    {c.name(n): (source.name if source else n, c.how(w).text) for n in w.names}
                )
            if c.gate:
                out[c.gate] = ("", Constant(0.0).text)
        return out | {n: ("", Constant(v).text) for n, v in self.scalars.items()}

    @property
    def approximate(self) -> list[str]:
        """What does not preserve the function, in words."""
        return [r.inexact for r in self.reports if r.inexact]

    @property
    def scalars(self) -> dict[str, float]:
        """New scalars on branches and what they hold, by their names after growth."""
        out: dict[str, float] = {}
        for e in self.scales:
            out[self.moved(e.name)] = e.value
            out |= {c.name(e.name): e.value for c in self.clones if e.op in c.block.ops}
        return out

    @property
    def added(self) -> list[str]:
        """Operators that the growth adds to the program besides the blocks themselves."""
        return [
            f"gate {c.gate} around block {c.position + c.rank} of {c.stack.name}"
            for c in self.clones
            if c.gate
        ] + [f"scalar {n}, at first {v:.6g}, on a branch" for n, v in self.scalars.items()]

    @property
    def notes(self) -> list[str]:
        """The reports as text."""
        return [str(r) for r in self.reports]


def plan_depth(
    graph: Graph,
    eq: Equations,
    sizes: Mapping[Stack, int],
    at: At = "end",
    order: str = "",
    cancel: bool = False,
    fresh: str = "",
) -> DepthScript:
    """The edit script for stacks at new numbers of blocks.

    ``at`` is "end", "spread" (copies evenly between, each of the block before it) or positions: a new
    block (or period) before the block of that number, as many as are added; one position takes all.
    A copy is made of the block before its position, at position 0 of the first. With an ``order`` of
    ``rewrite.orders`` it says both, and the copies compute. With ``cancel`` halves of the copies cancel
    (``rewrite.cancel``), otherwise their factors nearest to the sum are zero. With a key ``fresh`` the
    other matrices of new blocks are drawn like their sources, by this key and their names.

    Raises SizeError for a target below today's, one that is no whole number of periods, or positions
    that do not fit; NotPreserved where a block cannot be made the identity.
    """
    script = DepthScript()
    for stack, target in sizes.items():
        if target != stack.size:
            script.clones += _clones(stack, target, at, order)
    renumber(graph, script)
    taken = {n for w in (*graph.weights, *graph.unused) for n in w.names}
    for clone in script.clones:
        if cancel:
            clone.made = cancelled(eq, clone.block, clone.stack.name)
        elif not order:
            _settle(clone, taken)
        if fresh:
            clone.made |= {
                w: Fresh(f"{fresh}|{clone.name(w.name)}")
                for w in clone.block.weights
                if w not in clone.made and _matrix(w)
            }
        _wake(clone)
    for stack, target in sizes.items():
        own = [c for c in script.clones if c.stack is stack]
        if own:
            script.reports.append(_report(graph, stack, target, own, order))
    return script


def _matrix(w: Weight) -> bool:
    """A learned weight of several axes; gains and biases have one."""
    return w.role == "parameter" and w.is_float and sum(n > 1 for n in w.shape) > 1


def possible_sizes(stack: Stack, count: int = 4) -> list[int]:
    """Today's size and the next ones."""
    return [stack.size + i * stack.period for i in range(count)]


def _clones(stack: Stack, target: int, at: At, order: str) -> list[CloneEdit]:
    """The copies that one stack needs, in their order in the grown stack."""
    added = target - stack.size
    if added < 0:
        raise SizeError(
            f"{stack.name} has {stack.size} blocks, and {target} are fewer; meristem only grows",
            dimension=stack.name,
            size=stack.size,
            target=target,
        )
    if added % stack.period:
        sizes = ", ".join(map(str, possible_sizes(stack)[1:]))
        raise SizeError(
            f"the operators and constants of the blocks of {stack.name} repeat only every {stack.period} "
            f"blocks, so it grows to {sizes}, ..., not to {target}",
            dimension=stack.name,
            size=stack.size,
            target=target,
            possible=possible_sizes(stack),
        )
    q = stack.period
    if order:
        groups = copies(order, stack.size // q, target // q)
        pairs = [(position * q, source * q) for position, source in groups]
    else:
        positions = _positions(stack, added // q, at)
        pairs = [(position, max(position - q, 0)) for position in positions]
    out: list[CloneEdit] = []
    for position, first in pairs:
        after = stack.blocks[position - 1].exit if position else stack.blocks[0].entry
        for source in range(first, first + q):
            out.append(CloneEdit.of(stack, source, position, len(out), after))
    return out


def _positions(stack: Stack, groups: int, at: At) -> list[int]:
    """Before which old block each new period goes, in order."""
    n, q = stack.size, stack.period
    if at == "end":
        return [n] * groups
    if at == "spread":
        whole = n // q
        return sorted(q * -(-(i + 1) * whole // groups) for i in range(groups))
    if isinstance(at, str):
        raise SizeError(f'at={at!r} is neither "end" nor "spread" nor a list of positions', at=at)
    positions = sorted(int(p) for p in at)
    if len(positions) == 1:
        positions *= groups
    if len(positions) != groups or not all(0 <= p <= n for p in positions):
        raise SizeError(
            f"at={list(at)} does not fit {stack.name}: it takes {groups} from 0 to {n}, or one for "
            "all" + (f", each for {q} blocks" if q > 1 else ""),
            dimension=stack.name,
            at=list(at),
            count=groups,
        )
    return positions


def _settle(clone: CloneEdit, taken: set[str]) -> None:
    """What makes the copy the identity: constants, or a gate."""
    block, stack = clone.block, clone.stack
    constants = _identity(block)
    clone.made = {w: Constant(v) for w, v in (constants or {}).items()}
    if constants is not None:
        return
    if not block.exit.is_float:
        raise NotPreserved(
            f"block {clone.source} of {stack.name} cannot be made the identity: its stream is of "
            f"{block.exit.dtype}; leave {stack.name} out of the request",
            dimension=stack.name,
            place=block.place,
            reason=f"a stream of {block.exit.dtype}",
        )
    home = next(iter(clone.modules.values()), f"{stack.place or 'gates'}_{clone.tag}")
    gate = f"{home}.gate"
    while gate in taken:
        gate += "_"
    taken.add(gate)
    clone.gate = gate


def _wake(clone: CloneEdit) -> None:
    """Draws what is zero in the source and is multiplied by what is zero in the copy: neither would learn.

    Growth in width leaves such zeros: where new coordinates of a stream are written, before the zero gain
    of a norm or a layer scale; in units that begin with nothing, before a zero factor, or before halves
    that cancel, of which an odd one out is zero.
    """
    block, zeroed = clone.block, clone.zeroed
    near = before(factors({*zeroed, *clone.halves}, block.ops), block.ops)
    if zeroed:
        near |= before([v for r in block.spine or () for v in r.branches], block.ops)
    for w, axes in near.items():
        made = clone.made.get(w)
        if w not in block.weights or not _matrix(w):
            continue
        if made is not None and not isinstance(made, Rebuilt):
            continue
        if sleeping(w.array(), axes).any():
            woken = Woken(clone.name(w.name), tuple(sorted(axes)))
            clone.made[w] = replace(made, woken=woken) if isinstance(made, Rebuilt) else woken


def _identity(block: Block) -> dict[Weight, float] | None:
    """Weights that make the block the identity when they are constant; None: it takes a gate."""
    if block.spine is None:
        return None
    branches = [v for r in block.spine for v in r.branches]
    return zeroed(branches, block.ops, block.weights)


def _report(
    graph: Graph, stack: Stack, target: int, clones: Sequence[CloneEdit], order: str
) -> DepthReport:
    copied = list(dict.fromkeys(c.block for c in clones))
    return DepthReport(
        stack.name,
        stack.size,
        target,
        tuple(c.position for c in clones),
        tuple(c.source for c in clones),
        tuple(c.name(w.name) for c in clones for w in c.zeroed),
        tuple(c.gate for c in clones if c.gate),
        order,
        tuple(c.name(w.name) for c in clones for w in c.halves),
        tuple(n for b in copied for n in own_inputs(b, stack.blocks)),
        tuple(n for b in copied for n in own_outputs(b, graph)),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


__all__ = ["CloneEdit", "DepthReport", "DepthScript", "plan_depth", "possible_sizes"]
