"""Monotone boolean formulas over what fresh weight blocks may hold, solved greedily.

A variable is (weight block, property). Properties of one block exclude one another except where they
agree, so a formula is true, still open, or no longer possible; both ends are permanent, which lets one
forward sweep without backtracking solve all obligations. Formulas are graphs with shared parts, as deep
as the network; decisions travel upwards by counting, so the sweep is linear in their edges.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

Key = Hashable


class Formula:
    """A node: ``true``, ``false``, ``var``, ``and``, ``or``. Hash-consing is not needed.

    ``known`` is its value once it is decided; ``parents``, ``open`` (operands not yet decided) and
    ``required`` (it has to become true) are the bookkeeping of the one Assignment that the formula is
    given to.
    """

    __slots__ = ("args", "kind", "known", "open", "parents", "required")

    def __init__(self, kind: str, args: tuple[object, ...] = (), known: bool | None = None) -> None:
        self.kind = kind
        self.args = args
        self.known = known
        self.parents: list[Formula] | None = None
        self.open = 0
        self.required = False

    @property
    def parts(self) -> tuple[Formula, ...]:
        """The operands of a conjunction or disjunction."""
        return self.args if self.kind in ("and", "or") else ()  # type: ignore[return-value]

    def __repr__(self) -> str:
        return self.kind if not self.args else f"{self.kind}{self.args}"


TRUE = Formula("true", known=True)
FALSE = Formula("false", known=False)


def var(key: Key, prop: str) -> Formula:
    return Formula("var", (key, prop))


def all_of(parts: Iterable[Formula]) -> Formula:
    """Conjunction, simplified."""
    out: list[Formula] = []
    for p in parts:
        if p is FALSE or p.known is False:
            return FALSE
        if p is not TRUE and p.known is not True and not any(p is q for q in out):
            out.append(p)
    if not out:
        return TRUE
    return out[0] if len(out) == 1 else Formula("and", tuple(out))


def any_of(parts: Iterable[Formula]) -> Formula:
    """Disjunction in order of preference, simplified."""
    out: list[Formula] = []
    for p in parts:
        if p is TRUE or p.known is True:
            return TRUE
        if p is not FALSE and p.known is not False and not any(p is q for q in out):
            out.append(p)
    if not out:
        return FALSE
    return out[0] if len(out) == 1 else Formula("or", tuple(out))


class Assignment:
    """Which property each weight block holds; grows monotonically.

    Formulas share their parts, so what an assignment decides is handed upwards along the edges once,
    by counting; nothing is evaluated twice. A trial keeps a trail and takes all of it back on failure.
    """

    def __init__(self, compatible: Callable[[str, str], bool]) -> None:
        self.held: dict[Key, set[str]] = {}
        self.compatible = compatible
        self._vars: dict[Key, list[Formula]] = {}
        self._trail: list[Callable[[], None]] | None = None
        self._forced: list[Formula] = []  # required disjunctions with one operand left

    def holds(self, f: Formula) -> bool | None:
        """True, False (impossible) or None (open)."""
        if f.known is None and f.parents is None:
            self._enter(f)
        return f.known

    def units(self, f: Formula) -> bool:
        """Require ``f`` and assign what it, and all required before, leave no choice about.

        False where it has become impossible.
        """
        if self.holds(f) is None:
            self._require(f)
            while self._forced:
                self._require(self._forced.pop())
        return f.known is not False

    def _require(self, f: Formula) -> None:
        """What follows without a choice; each node is visited once, a disjunction twice."""
        if f.known is not None:
            return
        if f.kind == "var":
            self._assign(f)
        elif f.kind == "and":
            if not f.required:
                f.required = True
                for p in f.parts:
                    self._require(p)
        else:
            f.required = True
            if f.open == 1:
                self._require(next(p for p in f.parts if p.known is None))

    def choose(self, f: Formula) -> bool:
        """Make ``f`` true, taking the first feasible branch of every disjunction."""
        got = self.holds(f)
        if got is not None:
            return got
        if f.kind == "var":
            self._assign(f)
            return True
        if f.kind == "and":
            return all(self.choose(p) for p in f.parts)
        return any(self._attempt(p) for p in f.parts)

    def _attempt(self, f: Formula) -> bool:
        outer, self._trail = self._trail, []
        ok = self.choose(f)
        trail, self._trail = self._trail, outer
        if not ok:
            for undo in reversed(trail):
                undo()
        elif outer is not None:
            outer.extend(trail)
        return ok

    def _assign(self, f: Formula) -> None:
        key, prop = f.args
        held = self.held.setdefault(key, set())
        held.add(str(prop))
        if self._trail is not None:
            self._trail.append(lambda: held.discard(str(prop)))
        for v in self._vars.get(key, ()):
            if v.known is None:
                self._settle(v, self._decided(v))

    def _decided(self, v: Formula) -> bool | None:
        """What the properties that a block holds say of a variable."""
        key, prop = v.args
        held = self.held.get(key)
        if not held:
            return None
        if prop in held:
            return True
        return False if any(not self.compatible(str(prop), h) for h in held) else None

    def _settle(self, f: Formula, value: bool | None) -> None:
        """Note a decision and what follows from it above."""
        if value is None:
            return
        stack = [(f, value)]
        while stack:
            g, decided = stack.pop()
            if g.known is not None:
                continue
            g.known = decided
            if self._trail is not None:
                self._trail.append(lambda g=g: setattr(g, "known", None))  # type: ignore[misc]
            for parent in g.parents or ():
                parent.open -= 1
                if self._trail is not None:
                    self._trail.append(
                        lambda p=parent: setattr(p, "open", p.open + 1)  # type: ignore[misc]
                    )
                if parent.known is None:
                    at_once = parent.kind == "or"  # the value of one part that decides the whole
                    if decided is at_once:
                        stack.append((parent, at_once))
                    elif parent.open == 0:
                        stack.append((parent, not at_once))
                    elif at_once and parent.open == 1 and parent.required and self._trail is None:
                        self._forced.append(parent)

    def _enter(self, f: Formula) -> None:
        """Register a formula and its parts, the parts first; decided ones need no edges."""
        if self._trail is not None:
            raise AssertionError("a formula is entered before it is tried")
        stack = [(f, False)]
        while stack:
            g, done = stack.pop()
            if not done:
                if g.parents is not None or g.known is not None:
                    continue
                stack.append((g, True))
                stack.extend((p, False) for p in g.parts)
            elif g.parents is None:
                g.parents = []
                self._value(g)

    def _value(self, g: Formula) -> None:
        """The first value of a new node, whose parts have theirs."""
        if g.kind == "var":
            self._vars.setdefault(g.args[0], []).append(g)
            g.known = self._decided(g)
            return
        at_once = g.kind == "or"
        if any(p.known is at_once for p in g.parts):
            g.known = at_once
            return
        for p in g.parts:
            if p.known is None:
                assert p.parents is not None
                p.parents.append(g)
                g.open += 1
        if not g.open:
            g.known = not at_once
