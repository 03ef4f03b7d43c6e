"""Methods: which strategies the planner may try for new coordinates, and in which order.

A method never says what a weight holds: it names strategies, and the proof decides whether they preserve
the function and what follows for every weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from meristem.rewrite.errors import MeristemError


@dataclass(frozen=True)
class Method:
    """``graph`` and ``weights`` are the strategies in order, by what may compensate."""

    name: str
    summary: str
    graph: tuple[str, ...]
    weights: tuple[str, ...]

    def order(self, compensate: str) -> tuple[str, ...]:
        """The strategies under a way to compensate."""
        return self.weights if compensate == "weights" else self.graph


def _only(name: str, summary: str) -> Method:
    return Method(name, summary, (name,), (name,))


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        # Copies lock twins, so they are taken only where weights alone must carry the change.
        Method(
            "preserve",
            "zeros, means, or norms with statistics over the old coordinates",
            ("zero", "mean", "statistics"),
            ("zero", "mean", "copy"),
        ),
        _only("zero", "one factor of every product over new coordinates is zero"),
        _only("mean", "new coordinates are the mean of the old"),
        _only("statistics", "norms take their statistics over the old coordinates"),
        _only("copy", "whole multiples: every coordinate is repeated, what sums them is shared"),
        Method(
            "pair",
            "new coordinates come in equal pairs, which what sums them reads with opposite signs",
            ("pair", "zero", "mean", "statistics"),
            ("pair", "zero", "mean", "copy"),
        ),
    )
}


def method(name: str) -> Method:
    """The method of that name; MeristemError where there is none."""
    found = METHODS.get(name)
    if found is None:
        raise MeristemError(f"method={name!r} is not known; choose from {', '.join(METHODS)}")
    return found
