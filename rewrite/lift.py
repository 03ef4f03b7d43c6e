"""Lifts: how the old coordinates of one axis sit among the new ones.

A lift is a nested term: ``["atom", n, new]``, ``["prod", ...]``, ``["cat", ...]``. A leaf
``["share", n, new, key]`` is an atom whose new coordinates share what the old ones hold: what sums over the
axis reads replicas there, so that a coordinate and its replicas must hold together what it held alone. A
leaf ``["whole", n, n]`` is an atom of a new layer all of whose coordinates are made anew from their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meristem.rewrite.graph import Array

Digits = tuple[tuple[int, bool], ...]  # (size, fresh) of every factor of a block


@dataclass(frozen=True)
class Lift:
    """One axis: its blocks in order, and the block number of every new coordinate."""

    term: Any

    @property
    def old_size(self) -> int:
        return _size(self.term, 1)

    @property
    def size(self) -> int:
        return _size(self.term, 2)

    @property
    def grows(self) -> bool:
        return self.size != self.old_size

    @property
    def shares(self) -> bool:
        """Does any part of the axis share its old coordinates among replicas?"""
        return self.core is not self

    @property
    def core(self) -> Lift:
        """The same axis before its parts are shared."""
        term = _core(self.term)
        return self if term == self.term else Lift(term)

    def blocks(self) -> list[Digits]:
        """(size, fresh) digits of every block, in lexicographic order."""
        return _blocks(self.term)

    def coordinates(self) -> tuple[Array, Array]:
        """Source index (-1 where fresh) and block number of every new coordinate."""
        return _coordinates(self.term)

    def shared(self) -> Array:
        """For every new coordinate the one of ``core`` of which it holds a share."""
        return _shared(self.term)


def replicas(old: int, count: int, key: str) -> Array:
    """Which of ``old`` coordinates each of ``count`` new ones repeats.

    One after another, round and round; with a ``key``, drawn at random from it.
    """
    if not key:
        return np.arange(count) % old
    return generator(key).integers(0, old, count)


def generator(key: str) -> np.random.Generator:
    """A random generator that depends on ``key`` alone."""
    digest = hashlib.sha256(key.encode()).digest()[:16]
    return np.random.default_rng(np.frombuffer(digest, np.uint64))


def _leaf(term: Any) -> bool:
    return term[0] in ("atom", "share", "whole")


def _size(term: Any, which: int) -> int:
    if _leaf(term):
        return int(term[which])
    sizes = [_size(p, which) for p in term[1:]]
    return int(np.prod(sizes)) if term[0] == "prod" else sum(sizes)


def _core(term: Any) -> Any:
    return mapped(term, lambda t: ("atom", t[1], t[1]) if t[0] == "share" else t)


def _blocks(term: Any) -> list[Digits]:
    if term[0] == "whole":
        return [((term[1], True),)]
    if _leaf(term):
        old: Digits = ((term[1], False),)
        return [old] if term[1] == term[2] else [old, ((term[2] - term[1], True),)]
    if term[0] == "cat":
        return [b for p in term[1:] for b in _blocks(p)]
    out: list[Digits] = [()]
    for p in term[1:]:
        out = [(*b, *c) for b in out for c in _blocks(p)]
    return out


def _coordinates(term: Any) -> tuple[Array, Array]:
    if _leaf(term):
        old, new = term[1], term[2]
        return (
            np.concatenate([np.arange(old), np.full(new - old, -1)]).astype(np.int64),
            (np.arange(new) >= old).astype(np.int64),
        )
    parts = [_coordinates(p) for p in term[1:]]
    counts = [len(_blocks(p)) for p in term[1:]]
    sources = _joined(term, [s for s, _ in parts], [_size(p, 1) for p in term[1:]])
    return sources, _joined(term, [b for _, b in parts], counts)


def _shared(term: Any) -> Array:
    if term[0] in ("atom", "whole"):
        return np.arange(term[2])
    if term[0] == "share":
        _, old, new, key = term
        return np.concatenate([np.arange(old), replicas(old, new - old, key)])
    return _joined(term, [_shared(p) for p in term[1:]], [_size(_core(p), 2) for p in term[1:]])


def _joined(term: Any, parts: list[Array], sizes: list[int]) -> Array:
    """Numbers within the parts of a term as numbers within the whole; -1 stays."""
    if term[0] == "cat":
        starts = np.cumsum([0, *sizes])
        rows = [np.where(p < 0, -1, p + o) for p, o in zip(parts, starts, strict=False)]
        return np.concatenate(rows)
    out: Array = np.zeros(1, np.int64)
    for p, n in zip(parts, sizes, strict=True):
        fresh = (out[:, None] < 0) | (p[None, :] < 0)
        out = np.where(fresh, -1, out[:, None] * n + p[None, :]).ravel()
    return out


def mapped(term: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same nesting with other leaves."""
    return leaf(term) if _leaf(term) else (term[0], *(mapped(p, leaf) for p in term[1:]))
