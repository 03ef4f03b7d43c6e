"""Methods: which strategies the planner may try for new coordinates, and in which order.

A method never says what a weight holds: it names strategies, and the proof decides whether they preserve
the function and what follows for every weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from meristem.rewrite.blocks import COPIES
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import EVEN, Split


@dataclass(frozen=True)
class Method:
    """``graph`` and ``weights`` are the strategies in order, by what may compensate; ``split`` is how
    what sums copies is shared among them."""

    name: str
    summary: str
    graph: tuple[str, ...]
    weights: tuple[str, ...]
    split: Split = EVEN

    def order(self, compensate: str) -> tuple[str, ...]:
        """The strategies under a way to compensate."""
        return self.weights if compensate == "weights" else self.graph

    @property
    def copies(self) -> bool:
        """Is anything copied, so that there is something to share?"""
        return bool(set(self.graph) & set(COPIES))


def _only(name: str, summary: str) -> Method:
    return Method(name, summary, (name,), (name,))


def _first(names: tuple[str, ...], name: str, summary: str, split: Split = EVEN) -> Method:
    """These strategies where they preserve the function, then those of ``preserve``."""
    graph = (*names, "zero", "mean", "statistics")
    return Method(name, summary, graph, (*names, "zero", "mean", "copy"), split)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        # Copies lock twins, so they are taken only where weights alone must carry the change.
        _first((), "preserve", "zeros, means, or norms with statistics over the old coordinates"),
        _only("zero", "one factor of every product over new coordinates is zero"),
        _only("mean", "new coordinates are the mean of the old"),
        _only("statistics", "norms take their statistics over the old coordinates"),
        _only(
            "copy", "whole multiples: every coordinate is repeated, what sums them is shared evenly"
        ),
        Method(
            "clone",
            "whole multiples: the model is tiled, what sums is shared evenly, or with noise that cancels",
            ("copy",),
            ("copy",),
        ),
        _first(
            ("replicas", "circular"),
            "net2wider",
            "new coordinates repeat old ones drawn at random, what sums them is shared unequally",
            Split(unequal=0.5),
        ),
        _first(
            ("circular",),
            "lemon",
            "new coordinates repeat the old ones in turn, what sums them is shared entry by entry",
            Split(noise=0.5),
        ),
        _first(
            ("pair",),
            "pair",
            "new coordinates come in equal pairs, which what sums them reads with opposite signs",
        ),
    )
}


def method(text: str) -> Method:
    """The method that ``text`` names, with its options: ``"clone:noise=0.1,unequal=0.5"``.

    ``noise`` and ``unequal`` are those of ``Split``, for methods that copy. Raises MeristemError where
    there is no such method or option.
    """
    name, _, options = str(text).partition(":")
    found = METHODS.get(name)
    if found is None:
        raise MeristemError(f"method={text!r} is not known; choose from {', '.join(METHODS)}")
    given = dict(_option(text, word) for word in options.split(",") if options)
    if given and not found.copies:
        names = ", ".join(m.name for m in METHODS.values() if m.copies)
        raise MeristemError(
            f"{', '.join(given)} is shared among copies, and the method {name} makes none; these do: "
            f"{names}"
        )
    return replace(found, split=replace(found.split, **given))


def _option(text: str, word: str) -> tuple[str, float]:
    name, equals, value = (part.strip() for part in word.partition("="))
    names = [f.name for f in fields(Split)]
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not equals or name not in names or not 0 <= number < float("inf"):
        raise MeristemError(
            f"method={text!r}: {word!r} is no option; give {' or '.join(f'{n}=0.1' for n in names)}, 0 "
            "or more"
        )
    return name, number
