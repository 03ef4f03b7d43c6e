"""The planner: one joint solution for all sizes of a request.

Strategies are tried for each grown atom in a fixed order; under one choice of strategies the content
flows forward, obligations are solved greedily (forced ones first, then every disjunction takes its
first feasible branch), and the scale system is already solved. What fails names the atoms whose
strategy is raised next. Nothing is searched twice, so the whole is near-linear in the graph.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from meristem.rewrite.axes import Term, find
from meristem.rewrite.blocks import Growth, source_block
from meristem.rewrite.cell import OPPOSITE, PAIR, POSITIVE, TWIN, ZERO, Cell
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.flow import Failure, Flow, Obligation
from meristem.rewrite.formula import Assignment, var
from meristem.rewrite.graph import Op
from meristem.rewrite.methods import METHODS


def compatible(a: str, b: str) -> bool:
    """May one weight block hold both properties? Those along different digits agree."""
    if a == b:
        return True
    paired = [p for p in (a, b) if p.startswith((PAIR, OPPOSITE))]
    if len(paired) == 2:
        return a.lstrip(PAIR + OPPOSITE) != b.lstrip(PAIR + OPPOSITE)  # the numbers of the digits
    if paired:
        return POSITIVE in (a, b) and paired[0].startswith(PAIR)
    return a.startswith(TWIN) and b.startswith(TWIN)


@dataclass
class Solution:
    """A growth with its proof: what every fresh block holds and every old block is scaled by."""

    eq: Equations
    growth: Growth
    flow: Flow
    assignment: Assignment
    tried: list[tuple[dict[Term, str], list[Failure]]] = field(default_factory=list)

    @property
    def saddles(self) -> list[tuple[Op, frozenset[int]]]:
        """Products on new paths that could never train.

        Where every product over an atom's new coordinates has two zero factors, or a zero one that no
        gradient reaches (a zero in front of a function that is flat there), nothing moves any of them.
        One live product suffices: it moves the coordinates, and then the others.
        """
        dead: list[tuple[Op, frozenset[int]]] = []
        alive: set[int] = set()
        for op, x, y, atoms in self.flow.products:
            if self._stays_zero(x, y) or self._stays_zero(y, x):
                dead.append((op, atoms))
            else:
                alive |= atoms
        return [(op, atoms - alive) for op, atoms in dead if atoms - alive]

    @property
    def twins(self) -> list[Term]:
        """Copied atoms that no weight shares, so that their copies stay equal under training.

        Whole rounds are left out: who asks for them asks for that.
        """
        parted, growth = self.flow.parted, self.growth
        return [
            t
            for t in growth.sizes
            if growth.copies(id(t)) and growth.strategy(id(t)) != "copy" and id(t) not in parted
        ]

    @property
    def faults(self) -> int:
        """How many things will not train as they should."""
        return len(self.saddles) + len(self.twins)

    def _stays_zero(self, x: Cell, y: Cell) -> bool:
        """Is ``x`` zero, and does no gradient through the product with ``y`` move it?"""
        holds = self.assignment.holds
        return holds(x.zero) is True and (holds(y.zero) is True or holds(x.stuck) is True)

    @property
    def strategies(self) -> dict[Term, str]:
        return self.growth.strategies


def solve(
    eq: Equations,
    sizes: Mapping[Term, int],
    *,
    compensate: str = "graph",
    boundary: str = "pin",
    strategies: Mapping[Term, Sequence[str]] | None = None,
    names: Mapping[Term, str] | None = None,
    seed: int = 0,
    tolerant: bool = False,
) -> Solution:
    """Find strategies, fills and scales that preserve the function, or raise NotPreserved.

    ``strategies`` restricts the order for single atoms; ``names`` are what messages call them. What is
    copied at random depends on ``seed`` and the names. ``tolerant`` accepts norms of unequally many copies,
    which do not preserve the function.
    """
    sizes = {find(t): n for t, n in sizes.items()}
    default = METHODS["preserve"].order(compensate)
    orders = {t: _possible(t, sizes[t], (strategies or {}).get(t, default), names) for t in sizes}
    level = dict.fromkeys(sizes, 0)
    tried: list[tuple[dict[Term, str], list[Failure]]] = []
    best: Solution | None = None
    while True:
        choice = {t: orders[t][level[t]] for t in sizes}
        keys = {t: f"{seed}|{(names or {}).get(t, t.size)}" for t in sizes}
        flow = Flow(eq, Growth(sizes, choice, keys), compensate, boundary, tolerant=tolerant)
        solution, failures = _attempt(flow)
        growth = solution.growth
        if not failures:
            solution.tried = tried
            raised = _awake(solution, orders, level)
            if best is not None or not raised:
                return best if best is not None and best.faults <= solution.faults else solution
            best = solution  # another strategy may train better; it must still preserve
        elif best is not None:
            return best
        else:
            tried.append((choice, failures))
            blamed = {growth.names[a] for f in failures for a in f.atoms} or set(sizes)
            raised = {t: level[t] + 1 for t in blamed if level[t] + 1 < len(orders[t])}
            if not raised:
                raise _refusal(tried, sizes, blamed, compensate, names or {})
        level.update(raised)


def _possible(
    t: Term, size: int, order: Sequence[str], names: Mapping[Term, str] | None
) -> list[str]:
    """The strategies that a new size allows; NotPreserved where none is left."""
    left = [s for s in order if s != "copy" or size % t.size == 0]
    if not left:
        name = (names or {}).get(t, f"axis of {t.size}")
        raise NotPreserved(
            f"{name} cannot go from {t.size} to {size} by copies, which need a whole multiple; ask for "
            f'{t.size * max(2, round(size / t.size))}, or take method="lemon", which copies to any size',
            dimension=name,
            size=t.size,
            target=size,
        )
    return left


def _attempt(flow: Flow) -> tuple[Solution, list[Failure]]:
    """One flow under one choice of strategies, with everything that it leaves unmet."""
    with _undisturbed():
        flow.run()
        assignment = Assignment(compatible)
        failures = [*flow.failures, *_settle(flow, assignment)]
    return Solution(flow.eq, flow.growth, flow, assignment), failures


def _awake(
    solution: Solution, orders: Mapping[Term, Sequence[str]], level: Mapping[Term, int]
) -> dict[Term, int]:
    """Atoms on a saddle that could grow with statistics instead, which forces no zeros, and copies that
    would stay equal, which the next strategy might not make."""
    out = {t: level[t] + 1 for t in solution.twins if level[t] + 1 < len(orders[t])}
    with _undisturbed():
        for _, atoms in solution.saddles:
            for a in atoms:
                t = solution.growth.names[a]
                if "statistics" in orders[t] and orders[t][level[t]] != "statistics":
                    out[t] = list(orders[t]).index("statistics")
    return out


def _settle(flow: Flow, assignment: Assignment) -> list[Failure]:
    """Solve the obligations in topological order, forced ones first; what cannot be met comes back."""
    for o in flow.obligations:
        assignment.holds(o.formula)
    failed: list[Obligation] = []
    possible: list[Obligation] = []
    for o in flow.obligations:
        (possible if assignment.units(o.formula) else failed).append(o)
    failed += [o for o in possible if not assignment.choose(o.formula)]
    return [*(Failure(o.op, o.why, o.atoms) for o in failed), *_agree(flow, assignment)]


def _agree(flow: Flow, assignment: Assignment) -> Iterator[Failure]:
    """A block that repeats others along two digits: each of these must repeat along the other digit.

    The recipe repeats along one of them. That the result repeats along the other too follows if the two
    ways lead to the same entries.
    """
    waiting: list[Any] = list(assignment.held)
    while waiting:
        w, index = waiting.pop()
        twins = [int(p.removeprefix(TWIN)) for p in assignment.held[w, index] if p.startswith(TWIN)]
        for k, j in permutations(sorted(twins), 2):
            source = (w, source_block(flow.grid(w), index, k))
            wanted = f"{TWIN}{j - (j > k)}"
            if wanted in assignment.held.get(source, ()):
                continue
            if assignment.choose(var(source, wanted)):
                waiting.append(source)
            elif not _zeros(flow, assignment, w, index, twins):
                atoms = frozenset(a for _, a in flow.fresh_digits(flow.grid(w), index))
                yield Failure(
                    w.uses[0][0],
                    f"reads {w.name}, whose new entries would repeat two others",
                    atoms,
                )


def _zeros(flow: Flow, assignment: Assignment, w: Any, index: Any, twins: Sequence[int]) -> bool:
    """Are all blocks that are repeated zero?"""
    sources = (source_block(flow.grid(w), index, k) for k in twins)
    return all(ZERO in assignment.held.get((w, s), ()) for s in sources)


def _refusal(
    tried: list[tuple[dict[Term, str], list[Failure]]],
    sizes: Mapping[Term, int],
    blamed: set[Term],
    compensate: str,
    names: Mapping[Term, str],
) -> NotPreserved:
    strategies, failures = tried[-1]
    first = failures[0]
    what = ", ".join(sorted({names.get(t, f"axis of {t.size}") for t in blamed}))
    used = sorted({s for choice, _ in tried for s in choice.values()})
    others = [s for s in METHODS["preserve"].order(compensate) if s not in (*used, "copy")]
    advice = (
        f'try method="preserve", which may take {" or ".join(others)}'
        if others
        else 'try compensate="graph", which may rewrite norms and constants'
        if compensate == "weights"
        else "leave that dimension out of the request, or try a whole multiple with "
        'compensate="weights", which may copy coordinates'
    )
    return NotPreserved(
        f"{what} cannot grow without changing the function: {first.op.where} {first.why}"
        f" (tried {', '.join(used)}); {advice}",
        op=first.op.origin,
        place=first.op.place,
        reason=first.why,
        failures=[(f.op.where, f.why) for f in failures],
        strategies={names.get(t, str(t.size)): s for t, s in strategies.items()},
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Formulas nest as deep as a residual stream is long; and all of them live until the plan is made.

    So the collector, which would look through the traced program again and again, waits.
    """
    limit, collects = sys.getrecursionlimit(), gc.isenabled()
    sys.setrecursionlimit(max(limit, 20_000))
    gc.disable()
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
        if collects:
            gc.enable()


__all__ = ["POSITIVE", "ZERO", "Solution", "solve"]
