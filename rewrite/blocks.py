"""Growth on axis terms: old and fresh blocks, and where old coordinates sit in new ones.

Growing an atom of size n to n' is the substitution ``n -> Cat(n, n' - n)``. Expanding a term under
this substitution gives its *blocks* in lexicographic order; a block with a fresh digit holds only new
coordinates. Because lexicographic order survives row-major regrouping, reshape, transpose, slice and
concatenate act on arrays of blocks exactly as they act on tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import log

import numpy as np
import numpy.typing as npt

from meristem.rewrite.axes import Term, find

Ints = npt.NDArray[np.int64]

# Strategies whose new coordinates repeat old ones: in whole rounds, round and round to any size, at random.
COPIES = ("copy", "circular", "replicas")
# Strategies whose new coordinates are two halves: beside the old ones, or instead of them in a new layer.
PAIRS = ("pair", "halves")


@dataclass(frozen=True, slots=True)
class Digit:
    """One factor of a block: an atom (by ``id``), which piece of it, and the strategy of its growth."""

    atom: int
    fresh: bool
    grown: bool
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """A product of digits. ``size`` coordinates; fresh when any digit is."""

    digits: tuple[Digit, ...]

    @property
    def size(self) -> int:
        n = 1
        for d in self.digits:
            n *= d.size
        return n

    @property
    def fresh(self) -> bool:
        return any(d.fresh for d in self.digits)


@dataclass
class Growth:
    """Atoms to grow: root term -> (new size, strategy). Caches the expansion of every term.

    ``keys`` are what random choices of an atom's coordinates depend on.
    """

    sizes: dict[Term, int] = field(default_factory=dict)
    strategies: dict[Term, str] = field(default_factory=dict)
    keys: dict[Term, str] = field(default_factory=dict)
    _blocks: dict[int, tuple[Block, ...]] = field(default_factory=dict)
    _terms: list[Term] = field(default_factory=list)
    _touched: dict[int, bool] = field(default_factory=dict)
    names: dict[int, Term] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = {find(t): n for t, n in self.sizes.items()}
        self.strategies = {find(t): s for t, s in self.strategies.items()}
        self.keys = {find(t): k for t, k in self.keys.items()}
        self.names = {id(t): t for t in self.sizes}

    def strategy(self, atom: int) -> str:
        """The strategy of a grown atom, by the id that digits carry."""
        return self.strategies.get(self.names[atom], "zero")

    def equal(self, atom: int) -> bool:
        """Do the fresh coordinates of a grown atom equal others, so that any function keeps it?"""
        return self.copies(atom) or self.strategy(atom) in PAIRS

    def phantom(self, digit: Digit) -> bool:
        """Are these the old coordinates of an atom of which a new layer has the fresh ones alone?"""
        return digit.grown and not digit.fresh and self.strategy(digit.atom) == "halves"

    def copies(self, atom: int) -> bool:
        """Do the fresh coordinates of a grown atom repeat old ones?"""
        return self.strategy(atom) in COPIES

    def even(self, atom: int) -> bool:
        """Is every old coordinate of a copied atom there equally often?"""
        t = self.names[atom]
        return self.strategy(atom) != "replicas" and self.sizes[t] % t.size == 0

    def key(self, t: Term) -> str:
        """What the choice of copied coordinates depends on; empty: round and round."""
        return self.keys.get(t, "any") if self.strategies.get(t) == "replicas" else ""

    def ratio(self, atom: int) -> float:
        """n' / n of a grown atom."""
        t = self.names[atom]
        return self.sizes[t] / t.size

    def spread(self, atom: int) -> float:
        """By how much the logarithm of a sum's deviation grows with an atom whose new coordinates are like
        the old and independent of them (``rms``)."""
        return log(self.ratio(atom)) / 2 if self.strategy(atom) == "rms" else 0.0

    def size(self, t: Term) -> int:
        """The size of a term after growth."""
        t = find(t)
        if t.kind == "atom":
            return self.sizes.get(t, t.size)
        n = 1 if t.kind == "prod" else 0
        for p in t.parts:
            n = n * self.size(p) if t.kind == "prod" else n + self.size(p)
        return n

    def touches(self, t: Term) -> bool:
        """Does the term contain a grown atom?"""
        t = find(t)
        hit = self._touched.get(id(t))
        if hit is None:
            hit = t in self.sizes if t.kind == "atom" else any(self.touches(p) for p in t.parts)
            self._touched[id(t)] = hit
            self._terms.append(t)
        return hit

    def blocks(self, t: Term) -> tuple[Block, ...]:
        """The term's blocks in lexicographic order."""
        t = find(t)
        hit = self._blocks.get(id(t))
        if hit is None:
            hit = self._blocks[id(t)] = tuple(self._expand(t))
            self._terms.append(t)  # keeps id(t) valid
        return hit

    def _expand(self, t: Term) -> list[Block]:
        if t.kind == "atom":
            new = self.sizes.get(t)
            if new is None:
                return [Block((Digit(id(t), False, False, t.size),))]
            old = Block((Digit(id(t), False, True, t.size),))
            if new == t.size:
                return [old]
            return [old, Block((Digit(id(t), True, True, new - t.size),))]
        if t.kind == "cat":
            return [b for p in t.parts for b in self.blocks(p)]
        out = [Block(())]
        for p in t.parts:
            out = [Block(b.digits + c.digits) for b in out for c in self.blocks(p)]
        return out

    def appends(self, t: Term) -> bool:
        """Do all fresh coordinates of ``t`` come after the old ones? (Not so inside a product.)"""
        source, _ = self.coordinates(t)
        return bool(np.array_equal(source[: find(t).size], np.arange(find(t).size)))

    def coordinates(self, t: Term) -> tuple[Ints, Ints]:
        """For every new coordinate of ``t``: its source (-1 where fresh) and its block's number."""
        t = find(t)
        if t.kind == "atom":
            new = self.sizes.get(t, t.size)
            source = np.concatenate([np.arange(t.size), np.full(new - t.size, -1)]).astype(np.int64)
            block = (np.arange(new) >= t.size).astype(np.int64)
            return source, block
        parts = [self.coordinates(p) for p in t.parts]
        counts = [len(self.blocks(p)) for p in t.parts]
        if t.kind == "cat":
            start = np.cumsum([0] + [p.size for p in t.parts])
            first = np.cumsum([0, *counts])
            source = np.concatenate(
                [np.where(s < 0, -1, s + o) for (s, _), o in zip(parts, start, strict=False)]
            )
            block = np.concatenate([b + o for (_, b), o in zip(parts, first, strict=False)])
            return source, block
        source, block = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for p, (s, b), n in zip(t.parts, parts, counts, strict=True):
            joint = source[:, None] * p.size + s[None, :]
            fresh = (source[:, None] < 0) | (s[None, :] < 0)
            source = np.where(fresh, -1, joint).ravel()
            block = (block[:, None] * n + b[None, :]).ravel()
        return source, block


def source_block(
    grid: Sequence[tuple[Block, ...]], index: Sequence[int], k: int
) -> tuple[int, ...]:
    """The block that differs from ``index`` only in that its k-th fresh digit is old.

    One atom may stand in several pieces of an axis (the halves of a rotation), so digits alone do not
    tell blocks apart: the m-th block with the digits of ``index`` comes from the m-th with those of the
    source, for both are in lexicographic order of everything else.
    """
    for axis, i in enumerate(index):
        digits = grid[axis][i].digits
        fresh = [n for n, d in enumerate(digits) if d.fresh]
        if k >= len(fresh):
            k -= len(fresh)
            continue
        wanted = [(d.atom, d.fresh and n != fresh[k]) for n, d in enumerate(digits)]
        marks = [[(d.atom, d.fresh) for d in b.digits] for b in grid[axis]]
        before = marks[:i].count(marks[i])
        places = [j for j, mark in enumerate(marks) if mark == wanted]
        return (*index[:axis], places[before], *index[axis + 1 :])
    raise AssertionError(f"block {tuple(index)} has fewer fresh digits than {k}")


def combinations(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All block indices over some axes."""
    return product(*(range(n) for n in counts))
