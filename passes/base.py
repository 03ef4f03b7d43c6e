"""A width pass: which kinds it serves and how a size is solved into free atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.rewrite.axes import Term, atoms_of, find
from meristem.rewrite.blocks import Growth
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import SizeError
from meristem.rewrite.request import Wish, exact, wanted

Atoms = dict[Term, int]


@dataclass(frozen=True)
class WidthPass:
    """Widening of some kinds. ``refusal`` says in words what sizes such a dimension can take."""

    name: str
    kinds: tuple[str, ...]
    summary: str

    def solve(
        self, wishes: Sequence[Wish], *, lifted: bool = False
    ) -> tuple[Atoms, dict[str, int]]:
        """New sizes of atoms, and of the dimensions by name. ``lifted``: boundary pins do not count.

        Raises SizeError for sizes below today's and for those that the structure cannot express.
        """
        atoms: Atoms = {}
        reached: dict[str, int] = {}
        for w in wishes:
            grown, size = self.solve_one(w, lifted)
            for t, n in grown.items():
                if atoms.setdefault(t, n) != n:
                    raise SizeError(
                        f"{w.dimension.name} shares an axis with another dimension of this request, "
                        "which asks for another size",
                        dimension=w.dimension.name,
                    )
            reached[w.dimension.name] = size
        return atoms, reached

    def solve_one(self, wish: Wish, lifted: bool) -> tuple[Atoms, int]:
        """Grow one free atom: the last piece that can express the size."""
        d = wish.dimension
        size, rounded = wanted(wish.target, d.size)
        refuse_shrinking(d, size)
        if size == d.size:
            return {}, size
        options = [(t, step(d.term, t)) for t in self.options(d, lifted)]
        if rounded:
            size = nearest(d.size, exact(wish.target, d.size), [s for _, s in options])
        for t, each in options:
            if (size - d.size) % each == 0:
                n = t.size + (size - d.size) // each
                return ({t: n}, size) if n != t.size else ({}, size)
        steps = sorted({s for _, s in options})
        raise SizeError(
            f"{d.name} cannot be {size}: {self.why(steps)}; possible near it: "
            f"{', '.join(map(str, near(d.size, size, steps)))}",
            dimension=d.name,
            size=d.size,
            target=size,
            steps=steps,
        )

    def options(self, d: Dimension, lifted: bool) -> list[Term]:
        """Atoms whose growth can express a size, the first that can is taken."""
        return free_atoms(d.term, lifted)

    def why(self, steps: Sequence[int]) -> str:
        """What the structure asks of a size."""
        return f"it grows by multiples of {' or '.join(map(str, steps))}"


def refuse_shrinking(d: Dimension, size: int) -> None:
    """Growth never removes coordinates."""
    if size < d.size:
        raise SizeError(
            f"{d.name} is {d.size} today and cannot become {size}; give at least {d.size}",
            dimension=d.name,
            size=d.size,
            target=size,
        )


def free_atoms(term: Term, lifted: bool) -> list[Term]:
    """Growable atoms of a term, the last first; a regrown axis grows its last piece."""
    out: dict[Term, None] = {}
    for t in reversed(list(atoms_of(term))):
        pins = [p for p in t.pins if not (lifted and p.boundary)]
        if t.size > 1 and not pins:
            out.setdefault(t)
    return list(out)


def step(term: Term, atom: Term) -> int:
    """By how much the term's size changes when the atom grows by one."""
    atom = find(atom)
    return Growth({atom: atom.size + 1}).size(term) - find(term).size


def near(today: int, target: float, steps: Sequence[int]) -> list[int]:
    """The feasible sizes around a target."""
    out = set()
    for s in steps:
        below = today + int((target - today) // s) * s
        out |= {n for n in (below, below + s) if n >= today}
    return sorted(out)


def nearest(today: int, target: float, steps: Sequence[int]) -> int:
    """The feasible size nearest to a target, at least today's."""
    return min(near(today, max(target, today), steps), key=lambda n: (abs(n - target), n))
