"""What the caller gives for new coordinates: the mean of the old, or values.

Only entries that the proof leaves free can be given; where it needs zeros, twins or positive numbers,
other values are refused. Values are in the units of the old entries beside them: where a plan
multiplies those by a factor, it multiplies what is given by the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np

from meristem.rewrite.errors import MeristemError, NotPreserved, SelectorError
from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.graph import Array, Weight
from meristem.rewrite.packed import pack, unpack

MEAN = "mean"
Entry = dict[str, Any]

_NEEDS = {
    "zero": "zero",
    "positive": "positive",
    "mean": "the mean of old entries",
    "copy": "copies of old entries",
}


def entries(given: Any) -> dict[str, Entry]:
    """``{name: "mean" or array}`` as a plan holds it; what a plan holds stays as it is.

    Raises MeristemError where a value is neither, or holds no finite numbers.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise MeristemError('given is a mapping of weight names to "mean" or arrays')
    return {str(name): _entry(str(name), value) for name, value in given.items()}


def along(arrays: Mapping[str, tuple[Array, int]]) -> dict[str, Entry]:
    """Entries of new coordinates along a known axis: name -> (array, axis)."""
    return {n: {**_entry(n, array), "axis": axis} for n, (array, axis) in arrays.items()}


def _entry(name: str, value: Any) -> Entry:
    if isinstance(value, Mapping):
        return _planned(name, value)
    if isinstance(value, str):
        if value != MEAN:
            raise MeristemError(f'given[{name!r}] is {value!r}; give "mean" or an array')
        return {"fill": MEAN}
    array = _array(value)
    if array.dtype.kind not in "fiub" or not np.all(np.isfinite(array)):
        raise MeristemError(f"given[{name!r}] does not hold finite numbers")
    return {"fill": "values", "shape": list(array.shape), "data": pack(array)}


def _planned(name: str, value: Mapping[str, Any]) -> Entry:
    """An entry as a plan holds it."""
    try:
        if value["fill"] != MEAN:
            if value["fill"] != "values":
                raise ValueError(f"{value['fill']!r} is no way to fill")
            array = unpack(value["data"], tuple(map(int, value["shape"])))
            if not np.all(np.isfinite(array)):
                raise ValueError("entries are not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise MeristemError(
            f'given[{name!r}] is no entry of a plan ({error}); give "mean" or an array'
        ) from error
    return dict(value)


def _array(value: Any) -> Array:
    if hasattr(value, "detach"):  # a tensor, of which numpy may not know the type
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise MeristemError(f"given holds rows of several lengths: {error}") from error


class Givens:
    """The entries of one request, by the weights of one model.

    A plan that is bound to another carrier finds a weight by any of its names, transposed where the
    carrier stores it so: the sizes of its axes before and after tell. (Where both axes have the same two,
    it is taken as it is: carriers that transpose a weight rename it.)
    """

    def __init__(self, given: Mapping[str, Entry], weights: Sequence[Weight]) -> None:
        self.given = given
        self.known = {n for w in weights for n in w.names}
        self._taken: dict[str, Entry] = {}
        owner = {n: w.name for w in weights for n in w.names}
        self._of: dict[str, str] = {}
        for name, entry in given.items():
            names = [name, *entry.get("names", ())]
            found = next((owner[n] for n in names if n in owner), None)
            if found is None:
                raise SelectorError(
                    f"given names {name!r}, which is no weight of this model{_near(name, owner)}",
                    selector=name,
                )
            if found in self._of:
                raise SelectorError(
                    f"given names one weight twice: {self._of[found]!r} and {name!r} are tied",
                    selector=name,
                )
            self._of[found] = name

    def names(self, w: Weight) -> bool:
        """Is anything given for a weight?"""
        return w.name in self._of

    def takes_mean(self, w: Weight) -> bool:
        """Are the free entries of a weight the mean of its old ones?"""
        return w.name in self._of and self.given[self._of[w.name]]["fill"] == MEAN

    def apply(self, w: Weight, recipe: Expansion) -> Expansion:
        """The recipe with what is given for its weight.

        Raises NotPreserved where the proof needs other entries, MeristemError where shapes do not fit.
        """
        name = self._of.get(w.name)
        if name is None or not any(a.grows for a in recipe.axes):
            return recipe
        entry = self.given[name]
        if not w.is_float:
            raise MeristemError(f"given names {name!r}, which holds no floating-point numbers")
        grown = [[a.old_size, a.size] for a in recipe.axes]
        self._taken[name] = {"axes": grown, "names": list(w.names), **entry}
        if any(a.shares for a in recipe.axes):
            raise NotPreserved(
                f"{w.name} cannot take what is given: its new coordinates share what the old ones hold; "
                'leave it out of given, or use method="preserve"',
                weight=w.name,
            )
        if entry["fill"] == MEAN:
            if not any(f.kind == "mean" for f in recipe.fills.values()):
                raise NotPreserved(_refused(w.name, recipe), weight=w.name)
            return recipe
        array = unpack(entry["data"], tuple(entry["shape"]))
        stored = [list(a) for a in entry.get("axes", grown)]
        if stored not in (grown, grown[::-1]):
            raise MeristemError(
                f"the plan gives values for {name} as it grows from {[a for a, _ in stored]}, but here it "
                f"has the shape {recipe.old_shape}; make the plan again from this model",
                weight=w.name,
            )
        axis = entry.get("axis")
        if stored == grown:
            return _filled(w, recipe, array, axis)
        return _filled(w, recipe, array.T, None if axis is None else array.ndim - 1 - axis)

    def finish(self) -> dict[str, Entry]:
        """What the plan holds; SelectorError where something given does not grow."""
        idle = [n for n in self.given if n not in self._taken]
        if idle:
            raise SelectorError(
                f"given names {idle[0]!r}, which does not grow in this request; leave it out, or ask "
                "for a size of one of its dimensions",
                selector=idle[0],
            )
        return self._taken


def _near(name: str, known: Mapping[str, str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; nearest: {', '.join(found)}" if found else ""


def _filled(w: Weight, recipe: Expansion, array: Array, axis: int | None) -> Expansion:
    """Blocks that ``array`` covers hold its entries; ``axis`` is where they are new, if that is known."""
    whole = _spread(w, recipe, array, axis)
    fills = dict(recipe.fills)
    for index, window, fresh in _blocks(recipe):
        part = whole[window]
        if np.all(np.isnan(part)):
            continue
        scale = recipe.scales.get(recipe.base(index), 0.0)
        if not fresh:
            if not np.array_equal(part, np.asarray(w.array(), np.float64)[_old(recipe, index)]):
                raise MeristemError(
                    f"given[{w.name!r}] has the whole new shape {recipe.shape}, but differs from the old "
                    "entries, which stay; give the new coordinates alone, or repeat the old ones"
                )
            continue
        fill = fills.get(index, Fill("free"))
        if fill.kind == "zero" and not part.any():
            continue
        fits = fill.kind == "free" or (fill.kind == "positive" and bool(np.all(part > 0)))
        if fill.pairs or not fits:
            why = _refused(w.name, recipe, index)
            raise NotPreserved(why, weight=w.name, block=list(index), fill=fill.kind)
        scaled = exp(scale) * (part + recipe.shift) - recipe.shift if scale else part
        fills[index] = Fill("given", data=pack(scaled))
    return replace(recipe, fills=fills)


def _spread(w: Weight, recipe: Expansion, array: Array, along: int | None) -> Array:
    """The array in the new shape; no numbers where nothing is given."""
    if array.shape == recipe.shape and along is None:
        return array
    whole = np.full(recipe.shape, np.nan)
    sources = [a.coordinates()[0] for a in recipe.axes]
    old = [np.flatnonzero(s >= 0) for s in sources]
    new = [np.flatnonzero(s < 0) for s in sources]
    fits = []
    for axis, places in enumerate(new):
        at = [*old[:axis], places, *old[axis + 1 :]]
        if len(places) and along in (None, axis) and tuple(map(len, at)) == array.shape:
            fits.append(at)
    if len(fits) != 1:
        shapes = [
            tuple(len(new[k]) if k == axis else len(old[k]) for k in range(len(old)))
            for axis in range(len(old))
            if len(new[axis])
        ]
        raise MeristemError(
            f"given[{w.name!r}] has the shape {array.shape}; give "
            + " or ".join(map(str, [*dict.fromkeys(shapes), recipe.shape]))
            + ", the new coordinates or all of them"
            + (" (here the first is not unique)" if fits else ""),
            weight=w.name,
        )
    whole[np.ix_(*fits[0])] = array
    return whole


def _blocks(recipe: Expansion) -> Iterator[tuple[tuple[int, ...], Any, bool]]:
    """(index, places, is it fresh) of every block."""
    grids = [a.blocks() for a in recipe.axes]
    numbers = [a.coordinates()[1] for a in recipe.axes]
    for index in np.ndindex(*(len(g) for g in grids)):
        places = np.ix_(*(np.flatnonzero(b == i) for b, i in zip(numbers, index, strict=True)))
        fresh = any(f for g, i in zip(grids, index, strict=True) for _, f in g[i])
        yield index, places, fresh


def _old(recipe: Expansion, index: tuple[int, ...]) -> Any:
    """Where an old block is in the old weight."""
    both = [a.coordinates() for a in recipe.axes]
    return np.ix_(*(s[b == i] for (s, b), i in zip(both, index, strict=True)))


def _refused(name: str, recipe: Expansion, index: tuple[int, ...] | None = None) -> str:
    """Which entries the proof needs otherwise."""
    if index is None:
        index = next(i for i, _, fresh in _blocks(recipe) if fresh)
    fill = recipe.fills.get(index, Fill("free"))
    needs = "equal or opposite halves" if fill.pairs else _NEEDS.get(fill.kind, fill.kind)
    runs = []
    for a, i in zip(recipe.axes, index, strict=True):
        at = np.flatnonzero(a.coordinates()[1] == i)
        run = f"{at[0]}:{at[-1] + 1}"
        runs.append(run if len(at) == at[-1] + 1 - at[0] else f"{run} in part")
    return (
        f"{name} cannot take what is given: to preserve the function its new entries [{', '.join(runs)}] "
        f"must be {needs}; give those of the weights that are free (plan.weights says which), or take "
        "another method"
    )
