"""Solving the axes of a whole graph: one term for every axis of every value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meristem.rewrite.axes import Conflict, Pin, Term, align, factors_of, pin, spread_pins, unify
from meristem.rewrite.graph import Graph, Op, Value
from meristem.rewrite.places import is_count
from meristem.rewrite.registry import semantics


class Equations:
    """Axis terms of every value, filled by the operators' ``axes`` facets.

    With ``grids`` patches and attention over places do not pin the grid of an image: that is what holds
    of it where the function need not be preserved (``rewrite.grids``). ``spatial`` are then the axes that
    convolutions read by place.
    """

    def __init__(self, graph: Graph, *, grids: bool = False) -> None:
        self.graph = graph
        self.grids = grids
        self.spatial: list[Term] = []
        self.conflicts: list[tuple[Op, str]] = []
        self._terms: dict[Value, tuple[Term, ...]] = {}
        self._op: Op | None = None
        self._notes: dict[Op, Term] = {}

    def solve(self) -> Equations:
        """Equate everything, then pin what the boundary fixes and spread pins to atoms."""
        for op in self.graph.ops:
            self._op = op
            semantics(op.kind).axes(op, self)
        for literal in self.graph.literals:
            if self.grids and is_count(literal):
                continue
            for t in self.of(literal):
                if t.size > 1:
                    pin(t, Pin(f"it is an axis of the constant {literal.name}"))
        for given in self.graph.inputs:
            for t in self.of(given):
                pin(t, Pin(f"it is an axis of the input {given.name}", boundary=True))
        for name, v in self.graph.outputs:
            state = self.graph.written.get(name)
            for t in self.of(v):
                if state is None:
                    pin(t, Pin(f"it is an axis of the output {name}", boundary=True))
                else:
                    pin(t, Pin(f"the model writes {state}, whose later values nothing is known of"))
        spread_pins(t for ts in self._terms.values() for t in ts)
        return self

    def of(self, value: Value) -> tuple[Term, ...]:
        """The terms of a value's axes; fresh atoms at the first call."""
        got = self._terms.get(value)
        if got is None:
            got = self._terms[value] = tuple(Term(n) for n in value.shape)
        return got

    def set(self, value: Value, terms: Sequence[Term]) -> None:
        """State the terms of a result outright."""
        sizes = tuple(t.size for t in terms)
        if sizes != value.shape:
            raise AssertionError(f"{value!r}: axes rule gives sizes {sizes}")
        self._terms[value] = tuple(terms)

    def note(self, t: Term) -> None:
        """Keep a term that the current operator's transfer will need again."""
        assert self._op is not None
        self._notes[self._op] = t

    def noted(self, op: Op) -> Term | None:
        """What ``note`` kept."""
        return self._notes.get(op)

    def __iter__(self) -> Iterator[tuple[Value, tuple[Term, ...]]]:
        return iter(self._terms.items())

    def equal(self, a: Term, b: Term) -> None:
        """Equate two axes of the current operator; what does not align is pinned, with the reason."""
        try:
            unify(a, b)
        except Conflict as c:
            self._conflict(c, (a, b))

    def regroup(self, before: Sequence[Term], after: Sequence[Term]) -> None:
        """Equate two row-major groupings of the same coordinates (reshape)."""
        try:
            align(
                [f for t in before for f in factors_of(t)],
                [f for t in after for f in factors_of(t)],
            )
        except Conflict as c:
            self._conflict(c, ())

    def pin(self, t: Term, reason: str, *, opaque: bool = False, choice: bool = False) -> None:
        """Forbid growth of an axis because of the current operator."""
        where = self._op.where if self._op else "the graph"
        pin(t, Pin(f"{where} {reason}", opaque=opaque, choice=choice))

    def _conflict(self, c: Conflict, extra: Sequence[Term]) -> None:
        op = self._op
        assert op is not None
        self.conflicts.append((op, str(c)))
        for t in (*c.left, *c.right, *extra):
            self.pin(t, "regroups axes whose factors do not align")
