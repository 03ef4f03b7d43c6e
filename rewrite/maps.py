"""Axes mapped by matrices: every new coordinate is a combination of the old ones.

Linear growth operators (arXiv:2303.00980): what writes an axis becomes B W with B = [I; C], what reads it
W A^t with A = B / m, where m counts the replicas that C starts from (so that at the start a sum of replicas
is a mean of them). One C serves all weights of a dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.graph import Array
from meristem.rewrite.lift import Lift, is_leaf, leaves, mapped, replicas
from meristem.rewrite.packed import pack


def start(old: int, new: int, key: str) -> Array:
    """C [new - old, old] of replicas: one 1 in every row."""
    return np.eye(old)[replicas(old, new - old, key)]


def axes_of(recipe: Expansion) -> dict[str, tuple[int, int]]:
    """Old and new size of every matrix that a recipe of replicas would take."""
    parts = (t for a in recipe.axes for t in leaves(a.term) if t[0] in ("share", "copy"))
    return {key: (old, new) for _, old, new, key in parts}


def mapping(recipe: Expansion, matrices: Mapping[str, Array]) -> Expansion:
    """A recipe of replicas as one that maps the same coordinates by ``matrices`` (C by name)."""
    kept = [[i for i, k in enumerate(_kept(a.term)) if k] for a in recipe.axes]
    number = [{i: n for n, i in enumerate(k)} for k in kept]

    def at(index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n[i] for n, i in zip(number, index, strict=True))

    def stays(index: tuple[int, ...]) -> bool:
        return all(i in n for n, i in zip(number, index, strict=True))

    def fill(f: Fill) -> Fill:
        return replace(f, source=at(f.source)) if f.source else f

    names = {"share": "read", "copy": "write"}
    return replace(
        recipe,
        axes=tuple(
            Lift(mapped(a.term, lambda t: (names.get(t[0], t[0]), *t[1:]))) for a in recipe.axes
        ),
        fills={at(i): fill(f) for i, f in recipe.fills.items() if stays(i)},
        scales={at(i): s for i, s in recipe.scales.items() if stays(i)},
        maps={k: pack(matrices[k]) for k in axes_of(recipe)},
    )


def _kept(term: Any) -> list[bool]:
    """For every block whether it stays one when copied atoms are mapped afterwards."""
    if is_leaf(term):
        blocks = 1 if term[1] == term[2] or term[0] == "share" else 2
        return [True, term[0] != "copy"][:blocks]
    parts = [_kept(p) for p in term[1:]]
    if term[0] == "cat":
        return [k for p in parts for k in p]
    out = [True]
    for p in parts:
        out = [a and b for a in out for b in p]
    return out


__all__ = ["axes_of", "mapping", "start"]
