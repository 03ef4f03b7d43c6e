"""What the stored tensors of new layers hold: one recipe each, made of one tensor of the source.

A recipe has a text, which is what a plan keeps beside the name of the source: "copy", a number, or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array, Shape
from meristem.rewrite.lift import generator
from meristem.rewrite.packed import unpack
from meristem.rewrite.plan import expansion_data, expansion_from


class Made(Protocol):
    """A recipe. ``linear`` recipes carry a direction of the source to one of the copy; others are constant,
    or read what is not learned."""

    @property
    def linear(self) -> bool: ...

    @property
    def text(self) -> str:
        """The recipe as a plan keeps it."""
        ...

    def shape(self, old: Shape) -> Shape:
        """The shape that a source of shape ``old`` gives."""
        ...

    def apply(self, old: Array) -> Array:
        """The new tensor, in the type of the source."""
        ...


@dataclass(frozen=True)
class Copy:
    """The source's values."""

    linear: bool = True

    @property
    def text(self) -> str:
        return "copy"

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        return np.array(old)


@dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float
    linear: bool = False

    @property
    def text(self) -> str:
        return repr(self.value)

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        return np.full(old.shape, self.value, old.dtype)


@dataclass(frozen=True)
class Rebuilt:
    """The source through an Expansion that keeps its sizes: halves that are equal or opposite. What is
    ``woken`` of it is drawn before."""

    recipe: Expansion
    woken: Woken | None = None

    @property
    def linear(self) -> bool:
        return self.woken is None

    @property
    def text(self) -> str:
        first = {} if self.woken is None else json.loads(self.woken.text)
        return json.dumps({"expansion": expansion_data(self.recipe), **first})

    def shape(self, old: Shape) -> Shape:
        return self.recipe.shape

    def apply(self, old: Array) -> Array:
        return self.recipe.apply(old if self.woken is None else self.woken.apply(old))


@dataclass(frozen=True)
class Dirac:
    """The identity of ``size``: each output reads the input of its own number, at the kernel's middle.

    Without a kernel a square matrix; with one [outputs, inputs of a group, *kernel], where output i of a
    group reads input i of that group (Net2DeeperNet, arXiv:1511.05641).
    """

    size: Shape
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"dirac": list(self.size)})

    def shape(self, old: Shape) -> Shape:
        return self.size

    def apply(self, old: Array) -> Array:
        out = np.zeros(self.size, old.dtype)
        rows = np.arange(self.size[0])
        middle = tuple(k // 2 for k in self.size[2:])
        at: Any = (rows, rows % self.size[1], *middle)
        out[at] = 1
        return out


@dataclass(frozen=True)
class Root:
    """sqrt(source + eps): the gain that undoes a division by it."""

    eps: float
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"root": self.eps})

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        wide = np.sqrt(old.astype(np.float64) + self.eps)
        return wide.astype(old.dtype)


@dataclass(frozen=True)
class Entries:
    """These entries (``rewrite.packed``), which were measured; with ``root`` sqrt(entries + root)."""

    data: str
    root: float | None = None
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"entries": self.data, "root": self.root})

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        wide = unpack(self.data, old.shape)
        return np.asarray(wide if self.root is None else np.sqrt(wide + self.root), old.dtype)


@dataclass(frozen=True)
class Drawn:
    """Normal entries with this standard deviation; they depend on ``key`` alone."""

    spread: float
    key: str
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"normal": self.spread, "key": self.key})

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        entries = generator(self.key).standard_normal(old.shape)
        return np.asarray(self.spread * entries, old.dtype)


@dataclass(frozen=True)
class Fresh:
    """Normal entries with the mean and standard deviation of the source; they depend on ``key`` alone."""

    key: str
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"fresh": self.key})

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        wide = old.astype(np.float64)
        entries = generator(self.key).standard_normal(old.shape)
        return np.asarray(wide.mean() + wide.std() * entries, old.dtype)


@dataclass(frozen=True)
class Woken:
    """The source, of which every slice of zeros at a place of one of ``axes`` is drawn with the mean and
    standard deviation of the rest; what is drawn depends on ``key`` alone.

    For what is multiplied by a factor that is zero too: neither of two zeros learns.
    """

    key: str
    axes: tuple[int, ...]
    linear: bool = False

    @property
    def text(self) -> str:
        return json.dumps({"woken": self.key, "axes": list(self.axes)})

    def shape(self, old: Shape) -> Shape:
        return old

    def apply(self, old: Array) -> Array:
        asleep = sleeping(old, self.axes)
        if not asleep.any():
            return np.array(old)
        wide = old[~asleep].astype(np.float64)
        entries = generator(self.key).standard_normal(old.shape)
        return np.where(asleep, wide.mean() + wide.std() * entries, old).astype(old.dtype)


def sleeping(old: Array, axes: Iterable[int]) -> Array:
    """Where slices at a place of one of ``axes`` are zero; nowhere, if all is."""
    alive = old != 0
    asleep = np.zeros(old.shape, bool)
    for axis in axes:
        rest = tuple(a for a in range(old.ndim) if a != axis)
        asleep |= ~alive.any(axis=rest, keepdims=True)
    return asleep & ~asleep.all()


COPY = Copy()


def made(text: str) -> Made:
    """The recipe behind a text. Raises ValueError or KeyError where it is none."""
    if text == "copy":
        return COPY
    if not text.startswith("{"):
        return Constant(0.0 if text == "zero" else float(text))
    data: dict[str, Any] = json.loads(text)
    if "entries" in data:
        return Entries(str(data["entries"]), data["root"])
    if "dirac" in data:
        return Dirac(tuple(map(int, data["dirac"])))
    if "fresh" in data:
        return Fresh(str(data["fresh"]))
    if "normal" in data:
        return Drawn(float(data["normal"]), str(data["key"]))
    if "root" in data:
        return Root(float(data["root"]))
    woken = Woken(str(data["woken"]), tuple(map(int, data["axes"]))) if "woken" in data else None
    if woken is not None and "expansion" not in data:
        return woken
    return Rebuilt(expansion_from(data["expansion"]), woken)
