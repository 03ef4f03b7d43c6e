"""Expansions: the recipe of one new weight, lazy, composable and serialisable.

For every axis a lift (which pieces are old, which fresh), for every fresh block a fill, for every old
block a factor. Evaluated block by block from the stored tensor: old blocks are copied and scaled,
zeros and twins are derived from them, and free entries are drawn from the statistics of the old block
they extend. Where an axis is shared, all this is done for its old coordinates, and each is then split
among its replicas. Fresh values depend on (seed, weight name, block) alone, never on order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

import numpy as np

from meristem.rewrite.blend import BLENDS
from meristem.rewrite.continuation import continued
from meristem.rewrite.graph import Array
from meristem.rewrite.lift import Digits, Lift, generator, replicas
from meristem.rewrite.packed import unpack
from meristem.rewrite.resizing import GRID, matrix, resized

# How many entries of a neighbouring block are looked at to draw fresh ones like them.
SAMPLE = 1 << 18

# How unequal shares are at least where noise is left out.
QUIET = 0.5

# Entries beyond this are no weights: they hide scores.
HIDDEN = 1e4


@dataclass(frozen=True)
class Fill:
    """What a fresh block holds: ``zero``, ``free`` (drawn), ``positive``, ``given``, ``mean``, ``copy``, or
    what was stored there (``same``, in a new layer).

    ``digit`` numbers the fresh digit along which a mean or copy is taken, ``source`` is the block that it
    is taken from, ``key`` which of its coordinates are copied (see ``replicas``). ``pairs`` are (digit,
    sign) of fresh digits whose second half repeats the first, or is its negative (then an odd coordinate
    in the end is zero). ``data`` are the entries of a ``given`` block (``rewrite.packed``).
    """

    kind: str
    digit: int = 0
    source: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    key: str = ""
    data: str = ""


@dataclass(frozen=True)
class Split:
    """How replicas share what one coordinate held; the m shares always sum to it.

    A share is w (1 + ``unequal`` (u - mean u)) / m with u uniform in [-1, 1], one for each replica, plus
    ``noise`` times the weight's standard deviation times r - mean r with r normal, one for each entry
    (LEMON's matrix-valued shares, arXiv:2310.07999; HyperCloning's noise, arXiv:2409.12903). Zeros stay.
    """

    unequal: float = 0.0
    noise: float = 0.0

    @property
    def even(self) -> bool:
        return not (self.unequal or self.noise)


EVEN = Split()


@dataclass(frozen=True)
class Expansion:
    """The recipe of one weight. ``scales`` are logarithms by old block; ``shift`` is a constant that the
    program adds to the weight, so that weight + shift is what scales; ``split`` is how shared axes are
    shared. Blocks are numbered over the axes before they are shared. ``donors`` are names of further
    tensors of the same shape, ``blend`` says what replicas take from them (``rewrite.blend``), or ``mix``
    with what factors they are summed in place of the tensor (``rewrite.combine``). ``maps`` are the
    matrices C [new - old, old] of mapped axes by name (``rewrite.maps``). ``quiet`` are fresh blocks whose
    shares have no noise (``rewrite.noise``)."""

    name: str
    axes: tuple[Lift, ...]
    fills: dict[tuple[int, ...], Fill] = field(default_factory=dict)
    scales: dict[tuple[int, ...], float] = field(default_factory=dict)
    shift: float = 0.0
    seed: int = 0
    progression: int | None = None  # an axis along which a table continues by its own rule
    split: Split = EVEN
    donors: tuple[str, ...] = ()
    blend: str = ""
    maps: dict[str, str] = field(default_factory=dict)
    rule: str = ""  # by which the axes ``along`` go on before all else (``rewrite.continuation``)
    along: tuple[int, ...] = ()
    mix: tuple[float, ...] = ()
    quiet: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.size for a in self.axes)

    @property
    def old_shape(self) -> tuple[int, ...]:
        return tuple(a.old_size for a in self.axes)

    @property
    def changes(self) -> bool:
        """Does anything differ from the stored tensor?"""
        made = any(f.pairs or f.kind == "zero" for f in self.fills.values())
        grown = any(a.grows for a in self.axes) or any(self.scales.values())
        return made or grown or bool(self.donors)

    def apply(self, old: Array, dtype: Any = None, donors: Sequence[Array] = ()) -> Array:
        """The new tensor, computed in float64 and rounded once to ``dtype`` (default: the stored one).

        Rounding happens before means are taken, so that the mean of the stored values is what is stored.
        ``donors`` are the tensors of that name, in order.
        """
        if len(donors) != len(self.donors):
            raise ValueError(f"{self.name}: {len(donors)} donors, recipe for {len(self.donors)}")
        if self.mix:
            total = np.zeros(self.shape)
            for factor, x in zip(self.mix, donors, strict=True):
                total += factor * self._apply(x, np.float64)
            return total.astype(dtype or old.dtype)
        parts = [self._apply(x, dtype or old.dtype) for x in (old, *donors)]
        return BLENDS[self.blend](parts, self.axes) if self.blend else parts[0]

    def _apply(self, old: Array, dtype: Any) -> Array:
        target = np.dtype(dtype or old.dtype)
        if not self.changes:
            return np.array(old, target)
        if tuple(old.shape) != self.old_shape:
            raise ValueError(f"{self.name}: stored shape {old.shape}, recipe for {self.old_shape}")
        if self.rule:
            longer, rest = self.continued(old)
            return rest._apply(longer, target)
        out = self.core(old, target)
        for axis, lift in enumerate(self.axes):
            if lift.shares:
                out = self._share(out, axis, lift, _spread(old), target)
            if lift.maps:
                matrix = lift.matrix(self.maps)
                out = np.moveaxis(np.tensordot(matrix, out.astype(np.float64), (1, axis)), 0, axis)
        return out.astype(target, copy=False)

    def continued(self, old: Array) -> tuple[Array, Expansion]:
        """First the axes of the rule; then the others have a recipe for which all of these are old."""
        sizes = {a: self.axes[a].size for a in self.along}
        if self.rule == GRID:
            longer = np.asarray(old, np.float64)
            for a in self.along:
                longer = resized(longer, a, matrix(self.axes[a].term))
        else:
            longer = continued(old, sizes, self.rule)
        axes = tuple(
            Lift(("atom", a.size, a.size)) if k in sizes else a for k, a in enumerate(self.axes)
        )

        def kept(index: tuple[int, ...]) -> bool:
            return not any(index[a] for a in sizes)

        return longer, replace(
            self,
            axes=axes,
            fills={i: f for i, f in self.fills.items() if kept(i)},
            scales={i: s for i, s in self.scales.items() if kept(i)},
            rule="",
            along=(),
        )

    def core(self, old: Array, target: Any) -> Array:
        """Block by block, before axes are shared or mapped."""
        cores = [a.core for a in self.axes]
        where = [a.coordinates() for a in cores]
        grids = [a.blocks() for a in cores]
        numbers = [
            [np.flatnonzero(b == i) for i in range(len(g))]
            for (_, b), g in zip(where, grids, strict=True)
        ]
        out = np.zeros(tuple(a.size for a in cores), target)
        indices = sorted(
            np.ndindex(*(len(g) for g in grids)), key=lambda i: len(self._digits(grids, i))
        )
        for index in indices:
            cells = _window(n[i] for n, i in zip(numbers, index, strict=True))
            if self._digits(grids, index):
                made = self._fresh(old, out, index, where, grids, numbers, target)
                out[cells] = self._halves(made, grids, index)
            else:
                source = _window(
                    s[n[i]] for (s, _), n, i in zip(where, numbers, index, strict=True)
                )
                out[cells] = self._old(old[source], self.scales.get(index, 0.0), target)
        return out

    def _share(self, x: Array, axis: int, lift: Lift, spread: float, target: Any) -> Array:
        """Split every coordinate along ``axis`` among its replicas."""
        source = lift.shared()
        rows = np.moveaxis(x, axis, 0).astype(np.float64)
        counts = np.bincount(source, minlength=len(rows)).astype(np.float64)
        rng = generator(f"{self.seed}|{self.name}|share{axis}")
        apart = _centred(rng.uniform(-1, 1, len(source)), source)

        def shares(unequal: float) -> Array:
            part = (1 + unequal * apart) / counts[source]
            return np.asarray(rows[source] * part.reshape(-1, *[1] * (rows.ndim - 1)))

        out = shares(self.split.unequal)
        if self.split.noise:
            noise = rng.standard_normal(out.shape, dtype=np.float32).astype(np.float64)
            # What meets a zero need not be equal among replicas, so zeros have nothing to cancel with.
            out += self.split.noise * spread * _centred(noise, source) * (out != 0)
            if self.quiet:
                # Without noise replicas part by their shares, or they would stay equal under training.
                loud = np.moveaxis(self._loud(axis), axis, 0)
                out = np.where(loud, out, shares(max(self.split.unequal, QUIET)))
        return np.moveaxis(out, 0, axis).astype(target)

    def _loud(self, axis: int) -> Array:
        """Which entries are not ``quiet``, where the axes up to ``axis`` are shared."""
        blocks = [a.core.coordinates()[1] for a in self.axes]
        blocks = [
            b[a.shared()] if k <= axis else b
            for k, (a, b) in enumerate(zip(self.axes, blocks, strict=True))
        ]
        out = np.ones([len(b) for b in blocks], bool)
        for index in self.quiet:
            out[_window(np.flatnonzero(b == i) for b, i in zip(blocks, index, strict=True))] = False
        return out

    def _halves(self, block: Array, grids: list[list[Digits]], index: tuple[int, ...]) -> Array:
        """A fresh block whose second halves are made from the first, where its recipe says so."""
        for digit, sign in self.fills.get(index, Fill("free")).pairs:
            axis, position = self._digits(grids, index)[digit]
            sizes = [n for n, _ in grids[axis][index[axis]]]
            block = _paired(block, axis, sizes, position, sign)
        return block

    @staticmethod
    def _digits(grids: list[list[Digits]], index: tuple[int, ...]) -> list[tuple[int, int]]:
        """(axis, position in the block) of the fresh digits."""
        return [
            (axis, k)
            for axis, i in enumerate(index)
            for k, (_, fresh) in enumerate(grids[axis][i])
            if fresh
        ]

    def _old(self, block: Array, log_scale: float, target: Any) -> Array:
        if not log_scale:
            return block.astype(target)
        wide = block.astype(np.float64)
        return (exp(log_scale) * (wide + self.shift) - self.shift).astype(target)

    def _fresh(
        self,
        old: Array,
        out: Array,
        index: tuple[int, ...],
        where: Any,
        grids: list[list[Digits]],
        numbers: Any,
        target: Any,
    ) -> Array:
        fill = self.fills.get(index, Fill("free"))
        shape = tuple(len(n[i]) for n, i in zip(numbers, index, strict=True))
        if fill.kind == "zero":
            return np.zeros(shape, target)
        if fill.kind == "given":
            return unpack(fill.data, shape).astype(target)
        if fill.kind == "same":
            own = _window(s[n[i]] for (s, _), n, i in zip(where, numbers, index, strict=True))
            return np.asarray(old[own], target)
        base = _base(grids, index)
        if fill.kind in ("mean", "copy"):
            axis, position = self._digits(grids, index)[fill.digit]
            cells = _window(n[i] for n, i in zip(numbers, fill.source, strict=True))
            return _twin(out[cells].astype(np.float64), grids, index, fill, axis, position).astype(
                target
            )
        source = _window(s[n[i]] for (s, _), n, i in zip(where, numbers, base, strict=True))
        scale = self.scales.get(base, 0.0)
        if self.progression is not None:
            near = self._old(old[source], scale, np.float64)
            return _continue(near, self.progression, shape[self.progression]).astype(target)
        near = self._old(_sample(old[source]), scale, np.float64)
        if "float" not in target.name:  # bfloat16 is of no kind of numpy's own
            return np.full(shape, near.flat[0] if near.size else 0, target)
        if fill.kind == "positive":
            return np.full(shape, float(np.mean(np.abs(near))) or 1.0, target)
        if not np.all(np.abs(near) < HIDDEN):  # a folded mask hides the same from what is new
            places = (np.arange(n) % m for n, m in zip(shape, old[source].shape, strict=True))
            return self._old(old[source][np.ix_(*places)], scale, target)
        rng = generator(f"{self.seed}|{self.name}|{index}")
        spread = _spread(near)
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= np.float32(spread or 0.02)
        noise += np.float32(near.mean())
        return noise.astype(target, copy=False)

    def base(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """The all-old block that a fresh block extends."""
        return _base([a.core.blocks() for a in self.axes], index)


def _base(grids: list[list[Digits]], index: tuple[int, ...]) -> tuple[int, ...]:
    """The nearest old block before a fresh one, else the first old."""
    out = []
    for grid, i in zip(grids, index, strict=True):
        pool = [j for j in range(i, -1, -1) if not any(f for _, f in grid[j])]
        pool += [j for j in range(len(grid)) if not any(f for _, f in grid[j])]
        out.append(pool[0])
    return tuple(out)


def _window(places: Iterable[Array]) -> tuple[Any, ...]:
    """Index of a sub-array: slices where all places are runs, which is many times faster."""
    rows = list(places)
    if all(len(r) and r[-1] - r[0] == len(r) - 1 and np.all(np.diff(r) == 1) for r in rows):
        return tuple(slice(int(r[0]), int(r[-1]) + 1) for r in rows)
    return np.ix_(*rows)


def _sample(x: Array) -> Array:
    """Enough entries for statistics: every k-th along the longest axis of a large block."""
    if x.size <= SAMPLE:
        return x
    axis = int(np.argmax(x.shape))
    every = min(-(-x.size // SAMPLE), x.shape[axis])
    return x[(slice(None),) * axis + (slice(None, None, every),)]


def _spread(x: Array) -> float:
    """The standard deviation of a block, from enough of its entries; of one entry a tenth of it."""
    near = _sample(x).astype(np.float64)
    return float(near.std()) if near.size > 1 else float(abs(near.mean())) * 0.1


def _centred(x: Array, group: Array) -> Array:
    """Rows less the mean of their group, so that the rows of a group sum to zero."""
    sums = np.zeros((int(group.max()) + 1, *x.shape[1:]))
    np.add.at(sums, group, x)
    counts = np.bincount(group).reshape(-1, *[1] * (x.ndim - 1))
    return np.asarray(x - (sums / np.maximum(counts, 1))[group])


def _twin(
    source: Array,
    grids: list[list[Digits]],
    index: tuple[int, ...],
    fill: Fill,
    axis: int,
    position: int,
) -> Array:
    """Mean over, or copies along, one digit of the source block."""
    before = grids[axis][fill.source[axis]]
    after = grids[axis][index[axis]]
    inner = [n for n, _ in before]
    lead, tail = source.shape[:axis], source.shape[axis + 1 :]
    x = source.reshape(*lead, *inner, *tail)
    at = len(lead) + position
    count = after[position][0]
    if fill.kind == "mean":
        x = np.repeat(x.mean(axis=at, keepdims=True), count, axis=at)
    else:
        x = np.take(x, replicas(x.shape[at], count, fill.key), axis=at)
    return x.reshape(*lead, -1, *tail)


def _paired(x: Array, axis: int, digits: list[int], position: int, sign: int) -> Array:
    """The second half along one digit of an axis repeats the first, with a sign."""
    y = x.reshape(*x.shape[:axis], *digits, *x.shape[axis + 1 :]).copy()
    half = y.shape[axis + position] // 2
    halves = np.moveaxis(y, axis + position, 0)
    halves[half : 2 * half] = sign * halves[:half]
    if sign < 0:
        halves[2 * half :] = 0
    return y.reshape(x.shape)


def _continue(near: Array, axis: int, count: int) -> Array:
    """Continue a table geometrically along an axis (rotary frequencies: theta ** (-2 i / d)).

    Where its entries are not positive, or neighbours do not have one ratio of at most one (a growing
    table could overflow), the last entry is repeated.
    """
    x = np.moveaxis(near, axis, -1)
    ratio = np.ones_like(x[..., -1:])
    if x.shape[-1] > 1 and np.all(x > 0) and np.all(x[..., -1:] <= x[..., -2:-1]):
        ratio = x[..., -1:] / x[..., -2:-1]
        if x.shape[-1] > 2 and not np.allclose(x[..., 1:], x[..., :-1] * ratio, rtol=1e-3):
            ratio = np.ones_like(ratio)
    steps = ratio ** np.arange(1, count + 1)
    return np.moveaxis(x[..., -1:] * steps, -1, axis)
