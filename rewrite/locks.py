"""Copies that stay equal in new blocks: shares part replicas, and shares of zero do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Weight
from meristem.rewrite.lift import leaves
from meristem.rewrite.repeat import Repeat


def still_equal(clones: Iterable[Repeat], recipes: Mapping[str, Expansion]) -> Iterator[str]:
    """Weights of new blocks whose copied units are summed inside of the block by zeros alone.

    ``recipes`` are those of the growth in width that came first, by the names of the sources.
    """
    for clone in clones:
        written = _keys(clone, recipes, "copy")
        for key, readers in _keys(clone, recipes, "share").items():
            writers = [w for w in written.get(key, []) if w not in clone.zeroed]
            if all(w in clone.zeroed for w in readers) and all(
                clone.how(w).linear for w in writers
            ):
                yield from (clone.name(w.name) for w in writers)


def _keys(clone: Repeat, recipes: Mapping[str, Expansion], leaf: str) -> dict[str, list[Weight]]:
    """The weights of a block by the axes that they hold as leaves of this kind."""
    out: dict[str, list[Weight]] = {}
    for w in clone.block.weights:
        recipe = recipes.get(w.name)
        for t in (t for a in recipe.axes for t in leaves(a.term)) if recipe is not None else ():
            if t[0] == leaf and t[1] != t[2]:
                out.setdefault(t[3], []).append(w)
    return out


__all__ = ["still_equal"]
