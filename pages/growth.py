"""A growth as a page tells it: what every dimension and every weight was before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meristem.pages.words import pattern, places
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.plan import Change, Plan


@dataclass
class Growth:
    """``plan`` is what made the model that is shown, or None; ``source`` are the dimensions of the model
    that grew, where it is at hand. Then a dimension is found again by its weights, so that blocks which
    have moved up are not mistaken for others; without it, by its name."""

    plan: Plan | None
    source: Sequence[Dimension] = ()
    fresh: set[str] = field(default_factory=set)
    """Names of weights of new blocks."""

    def __post_init__(self) -> None:
        self.steps = self.plan.steps if self.plan else []
        self.fresh = {n for p in self.steps for n in p.clones} - {
            n for p in self.steps for n in p.moves
        }
        self.changes: dict[str, Change] = {}
        for c in self.plan.changes if self.plan else ():
            first = self.changes.get(c.name)
            before, how = (first.before, first.strategies) if first else (c.before, ())
            both = tuple(dict.fromkeys((*how, *c.strategies)))
            self.changes[c.name] = Change(c.name, c.kind, c.place, before, c.after, both)
        self._by_weight = {
            (d.kind, n, axis): d for d in reversed(self.source) for n, axis in d.weights
        }

    def name(self, d: Dimension) -> str | None:
        """What a dimension was called before the growth; None for those of new blocks."""
        if not self.plan or d.kind == "layers":
            return d.name
        if d.weights and all(n in self.fresh for n, _ in d.weights):
            return None
        for n, axis in d.weights if self.source else ():
            found = self._by_weight.get((d.kind, self.old_name(n), axis))
            if found is not None:
                return found.name
        return d.name

    def before(self, d: Dimension) -> int | None:
        """The size before the growth; None for dimensions of new blocks."""
        name = self.name(d)
        if name is None:
            return None
        change = self.changes.get(name)
        return change.before if change else d.size

    def old_name(self, weight: str) -> str:
        """The name of a weight before new blocks pushed it on."""
        for p in reversed(self.steps):
            weight = p.moves.get(weight, weight)
        return weight

    def shapes(
        self, weight: str
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]] | None:
        """(before, after, kinds of fills) of a weight by its name before; None where it does not change."""
        recipes = [p.weights[weight] for p in self.steps if weight in p.weights]
        if not recipes:
            return None
        fills = dict.fromkeys(f.kind for e in recipes for f in e.fills.values())
        return recipes[0].old_shape, recipes[-1].shape, tuple(fills)


def alike(changes: Iterable[Change]) -> list[tuple[Change, str]]:
    """Changes that differ in the numbers of blocks alone, once, with their place as a person reads it."""
    groups: dict[tuple[object, ...], list[Change]] = {}
    for c in changes:
        key = (c.kind, pattern(c.place), c.before, c.after, c.strategies)
        groups.setdefault(key, []).append(c)
    return [(own[0], places([c.place for c in own])) for own in groups.values()]


__all__ = ["Growth", "alike"]
