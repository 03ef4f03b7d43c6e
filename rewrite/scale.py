"""Scale factors as a sparse linear system in logarithms.

Every block of old coordinates of a value carries a factor: new = exp(s) * old. Operators relate the
logarithms linearly (a product adds, a sum equates, a norm forgets its input's factor and adds
``log(n'/n) / 2``), weights and editable literals are the unknowns. Expressions are eliminated in
topological order: each equation is solved for its most editable unknown, so they stay short, and at the
end all unknowns that nothing determines are zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

# Logarithms of size ratios are of order one; what differs by less is the same factor to float64.
TOLERANCE = 1e-13


@dataclass(frozen=True, slots=True)
class Linear:
    """``const + sum(coef * unknown)``."""

    const: float = 0.0
    terms: tuple[tuple[int, float], ...] = ()

    def __add__(self, other: Linear) -> Linear:
        if not other.terms:
            return self if other.const == 0 else Linear(self.const + other.const, self.terms)
        if not self.terms:
            return other if self.const == 0 else Linear(self.const + other.const, other.terms)
        out = dict(self.terms)
        for k, c in other.terms:
            out[k] = out.get(k, 0.0) + c
        return Linear(
            self.const + other.const, tuple((k, c) for k, c in out.items() if abs(c) > TOLERANCE)
        )

    def __mul__(self, k: float) -> Linear:
        return Linear(self.const * k, tuple((u, c * k) for u, c in self.terms) if k else ())

    def __sub__(self, other: Linear) -> Linear:
        return self + other * -1.0


NONE = Linear()


@dataclass
class ScaleSystem:
    """Unknowns with priorities, and the substitutions that the equations have forced."""

    priority: list[tuple[int, int]] = field(default_factory=list)
    solved: dict[int, Linear] = field(default_factory=dict)
    _clock: itertools.count[int] = field(default_factory=itertools.count)

    def unknown(self, priority: int) -> Linear:
        """A new unknown; equations are solved for high priorities first, then for the latest."""
        self.priority.append((priority, next(self._clock)))
        return Linear(0.0, ((len(self.priority) - 1, 1.0),))

    def reduce(self, e: Linear) -> Linear:
        """``e`` over unsolved unknowns."""
        while any(k in self.solved for k, _ in e.terms):
            out = Linear(e.const)
            for k, c in e.terms:
                if k in self.solved:
                    got = self.solved[k]
                    if any(j in self.solved for j, _ in got.terms):
                        got = self.solved[k] = self.reduce(got)
                    out = out + got * c
                else:
                    out = out + Linear(0.0, ((k, c),))
            e = out
        return e

    def equate(self, a: Linear, b: Linear) -> bool:
        """Require a = b; False where nothing editable can make it so."""
        e = self.reduce(a - b)
        if not e.terms:
            return abs(e.const) <= TOLERANCE
        k, c = max(e.terms, key=lambda term: self.priority[term[0]])
        rest = Linear(e.const, tuple(t for t in e.terms if t[0] != k))
        self.solved[k] = rest * (-1.0 / c)
        return True

    def value(self, e: Linear) -> float:
        """The logarithm with every undetermined unknown at zero."""
        return self.reduce(e).const
