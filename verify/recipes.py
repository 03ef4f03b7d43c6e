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
from meristem.verify.statistics import distances, largest

# Spacing of numbers next to one, by dtype.
EPSILON = {
    "float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7,
}  # fmt: skip
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}


def _wide(x: Array) -> Array:
    """Floats in float64, others as they are; bfloat16 is of no kind of numpy's own."""
    return x.astype(np.float64) if "float" in x.dtype.name else x


@dataclass
class Recipes:
    """What a plan says of every stored name.

    ``source`` reads a tensor of the source model by name. ``weights`` are recipes by every name of a
    weight, ``clones`` the names that depth makes or moves (name -> (source name or "", the text of a recipe
    of ``rewrite.made``)), ``constants`` stored constants that the plan rewrites.
    """

    source: Callable[[str], Array]
    weights: Mapping[str, Expansion] = field(default_factory=dict)
    clones: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)

    def recipe(self, name: str) -> Expansion | None:
        """The recipe behind a name of the grown model; None where the tensor only moves or stays."""
        return self.weights.get(self.clones.get(name, (name, ""))[0])

    def wide(self, name: str, shape: tuple[int, ...] = (), stored: str = "") -> Array:
        """The tensor that the plan gives ``name``: floats in float64, others as they are.

        ``shape`` is that of a tensor without a source. ``stored`` is the type in which growth in width was
        stored before depth made this of it, where that counts. CarrierError where the plan knows no source.
        """
        return self._made(name, shape, stored, self._grown)

    def off(self, name: str, exact: Array, stored: str) -> Array:
        """How far each entry may be from ``exact``, which is ``wide``, by roundings on the way to it.

        The mean of rounded entries is not the mean rounded, and shares are of entries that are rounded. The
        recipe is carried out once more on the source as it is stored, which rounds as growth does. Nothing
        is off by more than a rounding of the largest entry.
        """
        recipe = self.recipe(name)
        if recipe is None or stored not in EPSILON or not _averages(recipe):
            return np.zeros(exact.shape)

        def carried(source: str) -> Array:
            return self._grown(source, lambda x: x)

        bound = EPSILON[stored] * largest(exact)
        return np.minimum(distances(exact, self._made(name, exact.shape, stored, carried)), bound)

    def _made(
        self, name: str, shape: tuple[int, ...], stored: str, grown: Callable[[str], Array]
    ) -> Array:
        """What depth makes of what ``grown`` gives by a stored name."""
        source, how = self.clones.get(name, (name, "copy"))
        if not source:
            return made(how).apply(np.zeros(shape))
        data = self.constants.get(source)
        if data is None:
            data = grown(source)
        return data if how == "copy" else made(how).apply(_nearest(data, stored))

    def made(self, name: str) -> Made:
        """What depth makes of the source of ``name``."""
        return made(self.clones.get(name, (name, "copy"))[1])

    def _grown(self, name: str, taken: Callable[[Array], Array] = _wide) -> Array:
        """What growth in width makes of a stored name; ``taken`` is in what type it reads."""
        try:
            old = self.source(name)
        except KeyError:
            stored, mark, _ = name.rpartition(
                "#"
            )  # one more use of a tensor that several nodes read
            if mark:
                return self._grown(stored, taken)
            raise CarrierError(
                f"{name} is in the grown model, but neither in the source nor in the plan",
                name=name,
            ) from None
        recipe = self.weights.get(name)
        if recipe is None:
            return _wide(old)
        donors = [taken(self.source(d)) for d in recipe.donors]
        return _wide(recipe.apply(taken(old), donors=donors))


def _nearest(x: Array, dtype: str) -> Array:
    """Numbers of float64 rounded to ``dtype``, a tie to the even one; as they are where it is no float."""
    if x.dtype.kind != "f" or dtype not in EPSILON:
        return x
    if dtype != "bfloat16":
        return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + even) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


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

    def add(self, name: str, stored: Array, dtype: str, exact: Array, off: Array) -> None:
        """One tensor: equal to what the recipe of one growth gives, but for a rounding to ``dtype`` and
        what entries are ``off`` by roundings on the way (``Recipes.off``)."""
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
        limit, error = granted(exact, dtype, off), distances(exact, stored)
        worst = int(np.argmax(error / limit))
        self.measures.append(
            Measure(f"stored {name}", float(error.ravel()[worst]), float(limit.ravel()[worst]))
        )


def granted(exact: Array, dtype: str, off: Array) -> Array:
    """How far each stored entry may be from what its recipe gives; not at all where that is infinite."""
    sizes = np.where(np.isfinite(exact), np.abs(exact), 0.0)
    return np.asarray(EPSILON[dtype] * sizes + _SMALLEST[dtype] + off)


@dataclass
class Unrounded:
    """Stored tensors without the roundings of their recipes: entries that are as planned are what the plans
    give together, all others as they are stored. What differs then in float64 is no rounding.

    ``recipes`` are those of all growths, ``last`` those of the last one, from its source as it is stored.
    ``stored`` gives a tensor of the grown model with its dtype by name; None where it has none.
    """

    recipes: Recipes
    last: Recipes
    stored: Callable[[str], tuple[Array, str] | None]

    def wide(self, name: str, shape: tuple[int, ...] = ()) -> Array:
        """The tensor in float64."""
        found = self.stored(name)
        if found is None:
            return self.recipes.wide(name, shape)
        stored, dtype = found
        wide = _wide(stored)
        try:
            exact = self.last.wide(name, stored.shape, dtype)
            planned = self.recipes.wide(name, stored.shape)
        except CarrierError:  # level 1 says that the plan does not know it
            return wide
        if dtype not in EPSILON or exact.shape != stored.shape:
            return wide
        limit = granted(exact, dtype, self.last.off(name, exact, dtype))
        return np.where(distances(exact, wide) <= limit, planned, wide)


def _averages(recipe: Expansion) -> bool:
    fills = recipe.fills.values()
    return (
        recipe.progression is not None
        or any(f.kind == "mean" for f in fills)
        or any(a.shares for a in recipe.axes)
        or bool(recipe.donors)
    )


__all__ = ["EPSILON", "Recipes", "Stored", "Unrounded", "fits"]
