"""A grown model's weights as its plan describes them, in float64, and as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array
from meristem.rewrite.made import Made, made
from meristem.verify.report import Measure

# Spacing of numbers next to one, by dtype.
EPSILON = {
    "float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7,
}  # fmt: skip
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}


@dataclass
class Recipes:
    """What a plan says of every stored name.

    ``source`` reads a tensor of the source model by name. ``weights`` are recipes by every name of a
    weight, ``clones`` the names that depth makes or moves (name -> (source name or "", the text of a recipe
    of ``rewrite.made``)), ``constants`` stored constants that the plan rewrites. ``before`` are the recipes
    that made the source, where it is the result of a growth too.
    """

    source: Callable[[str], Array]
    weights: Mapping[str, Expansion] = field(default_factory=dict)
    clones: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    before: Recipes | None = None

    def recipe(self, name: str) -> Expansion | None:
        """The recipe behind a name of the grown model; None where the tensor only moves or stays."""
        return self.weights.get(self.clones.get(name, (name, ""))[0])

    def wide(self, name: str, shape: tuple[int, ...] = (), stored: str = "") -> Array:
        """The tensor that the plan gives ``name``: floats in float64, others as they are.

        ``shape`` is that of a tensor without a source. ``stored`` is the type in which growth in width was
        stored before depth made this of it, where that counts. CarrierError where the plan knows no source.
        """
        source, how = self.clones.get(name, (name, "copy"))
        if not source:
            return made(how).apply(np.zeros(shape))
        data = self.constants.get(source)
        if data is None:
            data = self._grown(source)
        return data if how == "copy" else made(how).apply(_nearest(data, stored))

    def averages(self, name: str) -> bool:
        """Is any entry of a tensor made of several, so that roundings of others show in it?"""
        recipe = self.recipe(name)
        if recipe is not None and _averages(recipe):
            return True
        source = self.clones.get(name, (name, ""))[0]
        return self.before is not None and self.before.averages(source)

    def made(self, name: str) -> Made:
        """What depth makes of the source of ``name``."""
        return made(self.clones.get(name, (name, "copy"))[1])

    def _grown(self, name: str) -> Array:
        try:
            old = self.source(name)
        except KeyError:
            stored, mark, _ = name.rpartition(
                "#"
            )  # one more use of a tensor that several nodes read
            if mark:
                return self._grown(stored)
            raise CarrierError(
                f"{name} is in the grown model, but neither in the source nor in the plan",
                name=name,
            ) from None
        recipe = self.weights.get(name)
        if recipe is None:
            return _wide(old)
        return recipe.apply(_wide(old), donors=[_wide(self.source(d)) for d in recipe.donors])


def _nearest(x: Array, dtype: str) -> Array:
    """Numbers of float64 rounded to ``dtype``, a tie to the even one; as they are where it is no float."""
    if x.dtype.kind != "f" or dtype not in EPSILON:
        return x
    if dtype != "bfloat16":
        return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + even) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def _wide(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def fits(recipes: Mapping[str, Expansion], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What keeps recipes from applying to tensors of these shapes; empty where they do."""
    for name, recipe in recipes.items():
        have = shapes.get(name)
        if have is None:
            return f"the plan grows {name}, which the source model does not have"
        if tuple(have) != recipe.old_shape:
            return (
                f"the plan grows {name} from {recipe.old_shape}, but the source has {tuple(have)}"
            )
    return ""


@dataclass
class Stored:
    """How stored tensors compare with their recipes."""

    measures: list[Measure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, stored: Array, dtype: str, exact: Array, averaged: bool) -> None:
        """One tensor: equal to what the recipe of one growth gives, but for a rounding to ``dtype``.

        A mean is taken over entries that are already rounded, and shares are of them, so these may be off
        by a rounding of the largest of them.
        """
        if stored.shape != exact.shape:
            self.failures.append(
                f"{name} is stored as {stored.shape}, its recipe gives {exact.shape}"
            )
            return
        if not stored.size:
            return
        if dtype not in EPSILON:
            count = int(np.sum(stored != exact))
            self.measures.append(Measure(f"stored {name} (entries that differ)", count, 0.0))
            return
        wide = stored.astype(np.float64)
        limit = granted(exact, dtype, averaged)
        with np.errstate(invalid="ignore"):
            error = np.where(
                (wide == exact) | (np.isnan(wide) & np.isnan(exact)), 0.0, wide - exact
            )
        error = np.abs(error)
        error = np.where(np.isnan(error), np.inf, error)
        worst = int(np.argmax(error / limit))
        self.measures.append(
            Measure(f"stored {name}", float(error.ravel()[worst]), float(limit.ravel()[worst]))
        )


def granted(exact: Array, dtype: str, averaged: bool, steps: int = 1) -> Array:
    """How far each stored entry may be from what its recipe gives."""
    eps = EPSILON[dtype] * max(1.0, steps / 2)  # a rounding is off by half of it at most
    limit: Array = eps * np.abs(exact) + _SMALLEST[dtype]
    return limit + eps * np.abs(exact).max(initial=0.0) if averaged else limit


@dataclass
class Unrounded:
    """Stored tensors without the roundings of their recipes: entries that are as planned are exact, all
    others as they are stored. What differs then in float64 is no rounding.

    ``stored`` gives a tensor of the grown model with its dtype by name; None where it has none.
    """

    recipes: Recipes
    stored: Callable[[str], tuple[Array, str] | None]
    steps: int = 1

    def wide(self, name: str, shape: tuple[int, ...] = ()) -> Array:
        """The tensor in float64."""
        found = self.stored(name)
        if found is None:
            return self.recipes.wide(name, shape)
        stored, dtype = found
        try:
            exact = self.recipes.wide(name, stored.shape)
        except CarrierError:  # level 1 says that the plan does not know it
            return _wide(stored)
        if dtype not in EPSILON or exact.shape != stored.shape:
            return _wide(stored)
        limit = granted(exact, dtype, self.recipes.averages(name), self.steps)
        wide = _wide(stored)
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(wide - exact) <= limit, exact, wide)


def _averages(recipe: Expansion) -> bool:
    fills = recipe.fills.values()
    return (
        recipe.progression is not None
        or any(f.kind == "mean" for f in fills)
        or any(a.shares for a in recipe.axes)
        or bool(recipe.donors)
    )


__all__ = ["EPSILON", "Recipes", "Stored", "Unrounded", "fits"]
