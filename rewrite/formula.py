"""Monotone boolean formulas over what fresh weight blocks may hold, solved greedily.

A variable is (weight block, property). Properties of one block exclude one another except where they
agree, so a formula is true, still open, or no longer possible; both ends are permanent, which lets one
forward sweep without backtracking solve all obligations in near-linear time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

Key = Hashable


class Formula:
    """A node: ``true``, ``false``, ``var``, ``and``, ``or``. Hash-consing is not needed."""

    __slots__ = ("args", "kind", "known")

    def __init__(self, kind: str, args: tuple[object, ...] = (), known: bool | None = None) -> None:
        self.kind = kind
        self.args = args
        self.known = known

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
    """Which property each weight block holds; grows monotonically."""

    def __init__(self, compatible: Callable[[str, str], bool]) -> None:
        self.held: dict[Key, set[str]] = {}
        self.compatible = compatible
        self._trail: list[tuple[Key, str]] | None = None

    def holds(self, f: Formula) -> bool | None:
        """True, False (impossible) or None (open). Permanent answers are memoised."""
        if f.known is not None:
            return f.known
        if f.kind == "var":
            key, prop = f.args
            held = self.held.get(key)
            if not held:
                return None
            if prop in held:
                return self._know(f, True)
            if any(not self.compatible(str(prop), h) for h in held):
                return self._know(f, False)
            return None
        want = f.kind == "or"  # the value that decides at once
        open_ = False
        for part in f.args:
            got = self.holds(part)  # type: ignore[arg-type]
            if got is want:
                return self._know(f, want)
            open_ = open_ or got is None
        return None if open_ else self._know(f, not want)

    def _know(self, f: Formula, value: bool) -> bool:
        if self._trail is None:  # inside a trial nothing is permanent
            f.known = value
        return value

    def units(self, f: Formula) -> bool:
        """Assign what ``f`` leaves no choice about; False where it has become impossible."""
        got = self.holds(f)
        if got is not None:
            return got
        if f.kind == "var":
            self._assign(f)
            return True
        if f.kind == "and":
            done = [self.units(p) for p in f.args]  # type: ignore[arg-type]  # every part, also after a failure
            return all(done)
        live = [p for p in f.args if self.holds(p) is not False]  # type: ignore[arg-type]
        return self.units(live[0]) if len(live) == 1 else True  # type: ignore[arg-type]

    def choose(self, f: Formula) -> bool:
        """Make ``f`` true, taking the first feasible branch of every disjunction."""
        got = self.holds(f)
        if got is not None:
            return got
        if f.kind == "var":
            self._assign(f)
            return True
        if f.kind == "and":
            return all(self.choose(p) for p in f.args)  # type: ignore[arg-type]
        return any(self._attempt(p) for p in f.args)  # type: ignore[arg-type]

    def _attempt(self, f: Formula) -> bool:
        outer, self._trail = self._trail, []
        ok = self.choose(f)
        trail, self._trail = self._trail, outer
        if not ok:
            for key, prop in trail:
                self.held[key].discard(prop)
        elif outer is not None:
            outer.extend(trail)
        return ok

    def _assign(self, f: Formula) -> None:
        key, prop = f.args
        self.held.setdefault(key, set()).add(str(prop))
        if self._trail is not None:
            self._trail.append((key, str(prop)))
