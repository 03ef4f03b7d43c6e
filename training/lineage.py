"""Which weights of a grown model stem from which of its source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.methods import method
from meristem.rewrite.plan import Plan


@dataclass(frozen=True)
class Heir:
    """One weight of the grown model. ``source`` is the old weight that it stems from, by the name of its
    recipe; None where there is none (gates, routers). ``whole``: it is that weight, grown; otherwise it was
    made for a new layer. ``among`` is how many equal weights do together what the old one did, and so share
    its gradient: experts of a mixture that was an MLP, blocks that are split."""

    name: str
    source: str | None
    whole: bool
    among: int = 1


@dataclass(frozen=True)
class Lineage:
    """A plan's weights by descent. ``names`` maps every name of a stored weight of the source to the one
    that its recipe has: tied weights have one."""

    plan: Plan
    names: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.plan.stages:
            raise MeristemError(
                f"this growth took {len(self.plan.stages)} stages; grow by the plans in plan.stages one "
                "after another, and do this after each"
            )

    def recipe(self, source: str) -> Expansion | None:
        """The recipe of an old weight; None where it stays as it is."""
        return self.plan.weights.get(source)

    def heirs(self, named: Iterable[tuple[str, int]]) -> list[Heir]:
        """One for each weight of the grown model; ``named`` are all its names, with a number that is the
        same for tied names."""
        found: dict[int, Heir] = {}
        for name, key in named:
            heir = self._of(name)
            if key not in found or (heir.whole and not found[key].whole):
                found[key] = heir
        out = list(found.values())
        homes = {h.source for h in out if h.whole}
        lost = {h.source for h in out if not h.whole} - homes
        if method(self.plan.method).divides:
            lost |= {h.source for h in out if not h.whole}
        count = Counter(h.source for h in out)
        return [
            replace(h, among=count[h.source]) if h.source in lost and h.source else h for h in out
        ]

    def _of(self, name: str) -> Heir:
        source, _ = self.plan.clones.get(name, (name, "copy"))
        if not source:
            return Heir(name, None, False)
        if source not in self.names:
            raise MeristemError(
                f"the grown module has a parameter {name}, and the plan knows nothing of it; give the "
                "module that grown.module() made, or one of a class with the same names",
                weight=name,
            )
        moved = self.plan.moves.get(name) == source
        return Heir(name, self.names[source], moved or name not in self.plan.clones)


__all__ = ["Heir", "Lineage"]
