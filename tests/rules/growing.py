"""Growing a view in every way and comparing: the outputs, and everything that the proof claims.

The proof says of every block of every value what it holds: old coordinates are the old values times a
factor, fresh ones are zero, positive, the mean of the old, or merely finite. All of it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

import numpy as np

from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.blocks import source_block
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import Split
from meristem.rewrite.graph import Array, Graph, Value
from meristem.rewrite.lift import Lift, replicas
from meristem.rewrite.planner import Solution, solve
from meristem.rewrite.script import edit_script, lift
from tests.rules.view_carrier import random_inputs, rebuild, run

TOLERANCE = 1e-10
SMALL = 1e-3  # what cancels below this is compared with operands of order one
# compensation, and strategies that are forced (None: the planner's own order)
MODES: tuple[tuple[str, str | None], ...] = (
    ("graph", None),
    ("weights", None),
    ("graph", "copy"),
    ("graph", "mean"),
    ("graph", "statistics"),
    ("graph", "zero"),
    ("graph", "pair"),
    ("graph", "circular"),
    ("graph", "replicas"),
    ("graph", "mixed"),
)
# By the number of the atom: copies beside zeros, pairs and means.
MIXED = (("circular", "zero"), ("zero", "mean"), ("pair", "circular"))
UNEQUAL = Split(unequal=0.5, noise=0.5)


class Wrong(AssertionError):
    """A growth that was accepted and does not preserve, or a claim of its proof that is not so."""


@dataclass
class Outcome:
    """Which growths were accepted, and why the others were refused."""

    accepted: list[tuple[tuple[int, ...], str, frozenset[str]]] = field(default_factory=list)
    refused: list[tuple[tuple[int, ...], str, str]] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)

    @property
    def strategies(self) -> set[str]:
        return {s for _, mode, names in self.accepted for s in names if mode == "graph"}

    def of(self, mode: str) -> int:
        """How many growths a mode accepted."""
        return sum(m == mode for _, m, _ in self.accepted)


def free_atoms(eq: Equations) -> list[Term]:
    """Atoms of weights that nothing pins, in the order of the graph; sizes of one do not grow."""
    found: dict[Term, None] = {}
    for w in eq.graph.weights:
        for t in eq.of(w):
            for atom in atoms_of(t):
                if atom.size > 1 and not atom.pins:
                    found.setdefault(atom)
    return list(found)


def pins(eq: Equations) -> list[str]:
    """Reasons that operators (not the boundary) give, once each."""
    reasons: dict[str, None] = {}
    for w in eq.graph.weights:
        for t in eq.of(w):
            for atom in atoms_of(t):
                for p in atom.pins:
                    if not p.boundary and atom.size > 1:
                        reasons.setdefault(p.reason)
    return list(reasons)


def jobs(atoms: Sequence[Term]) -> Iterator[list[Term]]:
    """Every atom alone, then all together."""
    for a in atoms:
        yield [a]
    if len(atoms) > 1:
        yield list(atoms)


def sizes_for(job: Sequence[Term], mode: str | None, step: int = 0) -> dict[Term, int]:
    """Half again (so that no ratio is whole), twice where copies are asked for, or one or two pairs."""
    fixed = {"copy": lambda n: 2 * n, "pair": lambda n: n + 3 + n % 2}.get(mode or "")
    return {
        t: fixed(t.size) if fixed else t.size + max(1, t.size // 2) + (i + step) % 2
        for i, t in enumerate(job)
    }


def orders(job: Sequence[Term], forced: str) -> dict[Term, tuple[str, ...]]:
    """The strategies of every atom, for a forced mode."""
    if forced == "mixed":
        return {t: MIXED[i % len(MIXED)] for i, t in enumerate(job)}
    return dict.fromkeys(job, (forced,))


def grow_everything(
    graph: Graph, *, modes: Sequence[tuple[str, str | None]] = MODES, seeds: Sequence[int] = (0, 1)
) -> Outcome:
    """Grow every free atom alone and all together in every mode; Wrong where anything is not so."""
    eq = Equations(graph).solve()
    given = [random_inputs(graph, s) for s in seeds]
    before = [run(graph, x) for x in given]
    for held in before:
        for name, v in graph.outputs:
            if not np.all(np.isfinite(held[v])):
                raise ValueError(f"the case itself is not finite at {name}")
    atoms = free_atoms(eq)
    out = Outcome(pinned=pins(eq))
    for compensate, forced in modes:
        label = forced or compensate
        for job in jobs(atoms):
            sizes = sizes_for(job, forced)
            key = tuple(t.size for t in job)
            strategies = orders(job, forced) if forced else None
            try:
                solution = solve(eq, sizes, compensate=compensate, strategies=strategies)
                script = edit_script(solution, split=UNEQUAL)
            except MeristemError as why:
                out.refused.append((key, label, str(why)))
                continue
            try:
                check(solution, script, given, before)
            except Wrong as why:
                raise Wrong(f"{label} growth of {key} ({sizes}): {why}") from why
            out.accepted.append((key, label, frozenset(solution.strategies.values())))
    return out


def check(
    solution: Solution, script: Any, given: Sequence[Mapping[str, Array]], before: Sequence[Any]
) -> int:
    """Outputs to 1e-10, every claim of the proof, and every size of the axis terms; how many values."""
    graph, checked = solution.eq.graph, 0
    try:
        grown, where = rebuild(graph, script)
    except (ValueError, AssertionError, IndexError) as why:
        raise Wrong(f"the grown view does not fit together: {why}") from why
    for v in graph.values():
        expected = tuple(solution.growth.size(t) for t in solution.eq.of(v))
        if v in where and where[v].shape != expected:
            raise Wrong(f"{v!r} has shape {where[v].shape} after growth, its axes say {expected}")
    for x, held in zip(given, before, strict=True):
        try:
            after = run(grown, x)
        except IndexError as why:
            raise Wrong(f"the grown view reads beyond an axis: {why}") from why
        for name, v in graph.outputs:
            compare(after[where[v]], held[v], f"output {name}")
        for v in graph.values():
            if v in where:
                claims(solution, v, np.asarray(held[v]), np.asarray(after[where[v]]))
                checked += 1
    return checked


def compare(new: Array, old: Array, what: str) -> None:
    """Equal to 1e-10 of the largest value, and finite where the old is."""
    if new.shape != old.shape:
        raise Wrong(f"{what} changes its shape from {old.shape} to {new.shape}")
    if new.dtype.kind not in "fc":
        if not np.array_equal(new, old):
            raise Wrong(f"{what} differs")
        return
    finite = np.isfinite(old)
    if not np.array_equal(np.isfinite(new), finite):
        raise Wrong(f"{what} is not finite where it was")
    if not np.array_equal(new[~finite], old[~finite], equal_nan=True):
        raise Wrong(f"{what} differs at infinities")
    new, old = new[finite], old[finite]
    if new.size and np.abs(new - old).max() > TOLERANCE * max(np.abs(old).max(), SMALL):
        raise Wrong(f"{what} differs by {np.abs(new - old).max():.2g} of {np.abs(old).max():.2g}")


def claims(solution: Solution, v: Value, old: Array, new: Array) -> None:
    """What the proof says of every block of one value."""
    flow, growth = solution.flow, solution.growth
    terms = solution.eq.of(v)
    if v in flow.shifts or any(v is literal for literal, _ in flow.remapped):
        return  # the sum with a constant is what scales; a rewritten index has new values
    if v not in flow.cells or not any(growth.touches(t) for t in terms):
        if v in flow.cells:
            _old_block(solution, v, flow.cells[v], old, new)
        return
    grid = flow.grid(v)
    lifts = [lift(t, growth, shared=a in flow.shared.get(v, ())) for a, t in enumerate(terms)]
    if any(each.shares for each in lifts):
        _shares(solution, v, lifts, old, new)
        return
    where = [growth.coordinates(t) for t in terms]
    for index in np.ndindex(*(len(g) for g in grid)):
        cell = flow.cells[v][index]
        rows = [np.flatnonzero(b == i) for (_, b), i in zip(where, index, strict=True)]
        part = new[np.ix_(*rows)]
        what = f"{v!r}, block {index}, made by {v.producer!r}"
        if not flow.fresh_digits(grid, index):
            source = [s[r] for (s, _), r in zip(where, rows, strict=True)]
            _scaled(solution, cell, old[np.ix_(*source)], part, what)
        else:
            _fresh(solution, grid, where, index, cell, part, new, what)
        holds = solution.assignment.holds
        if holds(cell.pos) and not np.all(part > 0):
            raise Wrong(f"{what} is claimed to be positive")
        if holds(cell.nonneg) and not np.all(part >= 0):
            raise Wrong(f"{what} is claimed not to be negative")


def _shares(solution: Solution, v: Value, lifts: Sequence[Lift], old: Array, new: Array) -> None:
    """A coordinate and its replicas sum to what it held, times the factor of its block; zeros are zeros."""
    grid = solution.flow.grid(v)
    rows = [solution.growth.coordinates(t)[1] for t in solution.eq.of(v)]
    for index in np.ndindex(*map(len, grid)):
        at = np.ix_(*(np.flatnonzero(r == i) for r, i in zip(rows, index, strict=True)))
        zero = solution.assignment.holds(solution.flow.cells[v][index].zero)
        if zero and np.any(new[at]):
            raise Wrong(f"{v!r}, block {index}, is claimed to be zero")
    for axis, each in enumerate(lifts):
        sums = np.zeros((each.core.size, *np.delete(new.shape, axis)))
        np.add.at(sums, each.shared(), np.moveaxis(new, axis, 0))
        new = np.moveaxis(sums, 0, axis)
    where = [each.core.coordinates()[0] for each in lifts]
    factors = np.zeros(old.shape)
    blocks = [solution.growth.coordinates(t) for t in solution.eq.of(v)]
    for at in np.ndindex(*old.shape):
        index = (b[np.flatnonzero(s == i)[0]] for (s, b), i in zip(blocks, at, strict=True))
        scale = solution.flow.cells[v][tuple(index)].scale
        factors[at] = exp(solution.flow.scales.value(scale))
    kept = np.ix_(*(np.flatnonzero(s >= 0) for s in where))
    compare(new[kept], old * factors, f"{v!r}, summed over replicas,")


def _old_block(solution: Solution, v: Value, cells: Any, old: Array, new: Array) -> None:
    """A value without grown axes: its blocks still carry factors."""
    where = [solution.growth.coordinates(t) for t in solution.eq.of(v)]
    for index in np.ndindex(cells.shape):
        rows = [np.flatnonzero(b == i) for (_, b), i in zip(where, index, strict=True)]
        at = np.ix_(*rows)
        _scaled(
            solution, cells[index], old[at], new[at], f"{v!r}, block {index}, by {v.producer!r}"
        )


def _scaled(solution: Solution, cell: Any, old: Array, new: Array, what: str) -> None:
    if cell.scale is None:
        if not np.all((old == 0) | np.isinf(old)) or not np.array_equal(old, new):
            raise Wrong(f"{what} is claimed to be zero or infinite")
        return
    factor = exp(solution.flow.scales.value(cell.scale))
    if old.dtype.kind == "f":
        compare(new, old * factor, f"{what}, factor {factor:.4g},")
    elif abs(factor - 1) > 1e-12 or not np.array_equal(new, old):
        raise Wrong(f"{what} does not carry the factor {factor:.4g}")


def _fresh(
    solution: Solution,
    grid: Any,
    where: Any,
    index: Any,
    cell: Any,
    part: Array,
    new: Array,
    what: str,
) -> None:
    holds, growth = solution.assignment.holds, solution.growth
    if (
        part.dtype.kind == "f"
        and not np.all(np.isfinite(part))
        and np.all(np.isfinite(new[np.ix_(*(np.flatnonzero(s >= 0) for s, _ in where))]))
    ):
        raise Wrong(f"{what} is not finite")
    if holds(cell.zero) and np.abs(part).max(initial=0) > 1e-12:  # a mean less itself is 1e-17
        raise Wrong(f"{what} is claimed to be zero")
    digits = solution.flow.fresh_digits(grid, index)
    if len(cell.twins) != len(digits):
        raise Wrong(f"{what} has {len(digits)} fresh digits and {len(cell.twins)} twins")
    for k, ((axis, atom), twin) in enumerate(zip(digits, cell.twins, strict=True)):
        if growth.strategy(atom) == "pair":
            nth = sum(1 for a, _ in digits[:k] if a == axis)
            halves = _halves(part, grid, index, axis, nth)
            if holds(twin):
                compare(*halves[:2], f"{what}, whose halves are claimed to be equal,")
            if holds(cell.opposite(k)):
                compare(-halves[0], halves[1], f"{what}, whose halves are claimed to be opposite,")
                compare(halves[2], 0 * halves[2], f"{what}, whose odd one is claimed to be zero,")
        if not holds(twin) or not (growth.strategy(atom) == "mean" or growth.copies(atom)):
            continue
        source = source_block(grid, index, k)
        rows = [np.flatnonzero(b == i) for (_, b), i in zip(where, source, strict=True)]
        key = None if growth.strategy(atom) == "mean" else growth.key(growth.names[atom])
        expected = _twin(new[np.ix_(*rows)], grid, source, index, axis, k, digits, key)
        if not np.allclose(
            part, expected, rtol=0, atol=TOLERANCE * _size(expected), equal_nan=True
        ):
            raise Wrong(f"{what} is claimed to be the {growth.strategy(atom)} of the old")


def _halves(part: Array, grid: Any, index: Any, axis: int, nth: int) -> list[Array]:
    """The first and the second half of a block along the nth fresh digit of an axis, and an odd rest."""
    digits = grid[axis][index[axis]].digits
    at = [i for i, d in enumerate(digits) if d.fresh][nth]
    x = part.reshape(*part.shape[:axis], *(d.size for d in digits), *part.shape[axis + 1 :])
    x = np.moveaxis(x, axis + at, 0)
    half = len(x) // 2
    return [x[:half], x[half : 2 * half], x[2 * half :]]


def _size(x: Array) -> float:
    return float(np.abs(x[np.isfinite(x)]).max(initial=1e-3))


def _twin(
    x: Array, grid: Any, source: Any, index: Any, axis: int, k: int, digits: Any, key: str | None
) -> Array:
    """The mean (no key) or copies of a block along its k-th fresh digit."""
    nth = sum(1 for a, _ in digits[:k] if a == axis)
    after = grid[axis][index[axis]].digits
    at = [i for i, d in enumerate(after) if d.fresh][nth]
    before = [d.size for d in grid[axis][source[axis]].digits]
    lead, tail = x.shape[:axis], x.shape[axis + 1 :]
    x = np.asarray(x, np.float64).reshape(*lead, *before, *tail)
    count = after[at].size
    if key is None:
        x = np.repeat(x.mean(axis=axis + at, keepdims=True), count, axis=axis + at)
    else:
        x = np.take(x, replicas(x.shape[axis + at], count, key), axis=axis + at)
    return x.reshape(*lead, -1, *tail)
