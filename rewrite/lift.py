"""Lifts: how the old coordinates of one axis sit among the new ones.

A lift is a nested term: ``["atom", n, new]``, ``["prod", ...]``, ``["cat", ...]``. A leaf
``["share", n, new, key]`` is an atom whose new coordinates share what the old ones hold: what sums over the
axis reads replicas there, so that a coordinate and its replicas must hold together what it held alone.
``["copy", n, new, key]`` is an atom whose new coordinates are replicas too, and hold all that theirs do.
``["write", n, new, key]`` and ``["read", n, new, key]`` are atoms that a matrix maps (``rewrite.maps``). A
leaf ``["whole", n, n]`` is an atom of a new layer all of whose coordinates are made anew from their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from meristem.rewrite.graph import Array
from meristem.rewrite.packed import unpack

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
        return any(t[0] == "share" for t in leaves(self.term))

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the matrices that map parts of the axis."""
        return tuple(t[3] for t in leaves(self.term) if t[0] in ("write", "read"))

    @property
    def core(self) -> Lift:
        """The same axis before its parts are shared or mapped."""
        term = _core(self.term)
        return self if term == self.term else Lift(term)

    def blocks(self) -> list[Digits]:
        """(size, fresh) digits of every block, in lexicographic order."""
        return _blocks(self.term)

    def coordinates(self) -> tuple[Array, Array]:
        """Source index (-1 where fresh) and block number of every new coordinate."""
        return _coordinates(self.term)

    def replica(self) -> Array:
        """For every new coordinate which replica it is: 0 the old one, 1 its first copy."""
        return _replica(self.term)

    def matrix(self, maps: Mapping[str, str]) -> Array:
        """The matrix [size, size of ``core``] of a mapped axis; ``maps`` are packed C by name."""
        return _matrix(self.term, maps)

    def shared(self) -> Array:
        """For every new coordinate the one of ``core`` of which it holds a share."""
        return _shared(self.term)

    def after_core(self) -> Array:
        """For every new coordinate the one of ``core`` that it is or shares; -1 where a matrix makes it."""
        return _after_core(self.term)

    def counts(self) -> Array:
        """For every new coordinate how many of them, itself among them, hold all that it holds."""
        return _counts(self.term)

    def kept(self) -> Array:
        """Where the old coordinates are, in their order."""
        return np.flatnonzero(self.coordinates()[0] >= 0)


def replicas(old: int, count: int, key: str) -> Array:
    """Which of ``old`` coordinates each of ``count`` new ones repeats.

    One after another, round and round; with a ``key``, drawn at random from it.
    """
    if not key:
        return np.arange(count) % old
    return generator(key).integers(0, old, count)


def copies(old: int, new: int, key: str) -> Array:
    """How often every old coordinate is there, with its replicas."""
    return np.bincount([*range(old), *replicas(old, new - old, key)], minlength=old)


def generator(key: str) -> np.random.Generator:
    """A random generator that depends on ``key`` alone."""
    digest = hashlib.sha256(key.encode()).digest()[:16]
    return np.random.default_rng(np.frombuffer(digest, np.uint64))


# Atoms that grow after all else, so that blocks are numbered over their old coordinates.
_LATER = ("share", "write", "read")


def is_leaf(term: Any) -> bool:
    """Is this one factor, with an old and a new size?"""
    return term[0] in ("atom", "copy", "whole", *_LATER)


def _size(term: Any, which: int) -> int:
    if is_leaf(term):
        return int(term[which])
    sizes = [_size(p, which) for p in term[1:]]
    return int(np.prod(sizes)) if term[0] == "prod" else sum(sizes)


def _core(term: Any) -> Any:
    return mapped(term, lambda t: ("atom", t[1], t[1]) if t[0] in _LATER else t)


def _blocks(term: Any) -> list[Digits]:
    if term[0] == "whole":
        return [((term[1], True),)]
    if is_leaf(term):
        old: Digits = ((term[1], False),)
        return [old] if term[1] == term[2] else [old, ((term[2] - term[1], True),)]
    if term[0] == "cat":
        return [b for p in term[1:] for b in _blocks(p)]
    out: list[Digits] = [()]
    for p in term[1:]:
        out = [(*b, *c) for b in out for c in _blocks(p)]
    return out


def _coordinates(term: Any) -> tuple[Array, Array]:
    if is_leaf(term):
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
    if term[0] == "share":
        _, old, new, key = term
        return np.concatenate([np.arange(old), replicas(old, new - old, key)])
    if is_leaf(term):
        return np.arange(term[2])
    return _joined(term, [_shared(p) for p in term[1:]], [_size(_core(p), 2) for p in term[1:]])


def _after_core(term: Any) -> Array:
    if term[0] in ("write", "read"):
        return np.concatenate([np.arange(term[1]), np.full(term[2] - term[1], -1)])
    if is_leaf(term):
        return _shared(term)
    return _joined(term, [_after_core(p) for p in term[1:]], [_size(_core(p), 2) for p in term[1:]])


def _counts(term: Any) -> Array:
    if term[0] == "copy":
        _, old, new, key = term
        return copies(old, new, key)[[*range(old), *replicas(old, new - old, key)]]
    if is_leaf(term):
        return np.ones(term[2], np.int64)
    parts = [_counts(p) for p in term[1:]]
    return np.concatenate(parts) if term[0] == "cat" else reduce(np.kron, parts)


def _replica(term: Any) -> Array:
    if term[0] in ("share", "copy"):
        _, old, new, key = term
        seen = np.zeros(old, np.int64)
        out: Array = np.zeros(new, np.int64)
        for i, source in enumerate(replicas(old, new - old, key)):
            seen[source] += 1
            out[old + i] = seen[source]
        return out
    if is_leaf(term):
        return np.zeros(term[2], np.int64)
    parts = [_replica(p) for p in term[1:]]
    if term[0] == "cat":
        return np.concatenate(parts)
    out = np.zeros(1, np.int64)
    for p in parts:
        out = np.maximum(out[:, None], p[None, :]).ravel()
    return out


def _matrix(term: Any, maps: Mapping[str, str]) -> Array:
    def leaf(t: Any) -> Array:
        kind, old, new, *key = t
        if kind not in ("write", "read"):
            return np.eye(new)
        whole = np.concatenate([np.eye(old), unpack(maps[key[0]], (new - old, old))])
        return whole / copies(old, new, key[0]) if kind == "read" else whole

    return assembled(term, leaf)


def assembled(term: Any, leaf: Callable[[Any], Array]) -> Array:
    """The matrix [new, old] of an axis from those of its parts: products of them, or blocks."""
    if is_leaf(term):
        return leaf(term)
    parts = [assembled(p, leaf) for p in term[1:]]
    if term[0] == "prod":
        return reduce(np.kron, parts)
    out = np.zeros(tuple(np.sum([p.shape for p in parts], axis=0)))
    corner = np.zeros(2, np.int64)
    for p in parts:
        end = corner + p.shape
        out[corner[0] : end[0], corner[1] : end[1]] = p
        corner = end
    return out


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
    return leaf(term) if is_leaf(term) else (term[0], *(mapped(p, leaf) for p in term[1:]))


def leaves(term: Any) -> list[Any]:
    """The leaves of a term, in order."""
    return [term] if is_leaf(term) else [t for p in term[1:] for t in leaves(p)]
