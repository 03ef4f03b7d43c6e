"""Methods: which strategies the planner may try for new coordinates, and what new blocks are.

A method of width never says what a weight holds: it names strategies, and the proof decides whether they
preserve the function and what follows for every weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from meristem.rewrite.blocks import COPIES
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import EVEN, Split
from meristem.rewrite.orders import ORDERS


@dataclass(frozen=True)
class Method:
    """``graph`` and ``weights`` are the strategies in order, by what may compensate; ``split`` is how
    what sums copies is shared among them. ``tolerant`` methods do not preserve the function, nor do
    those that ``stretch`` tables of positions."""

    name: str
    summary: str
    graph: tuple[str, ...]
    weights: tuple[str, ...]
    split: Split = EVEN
    tolerant: bool = False
    stretch: bool = False

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
        replace(
            _first(
                ("replicas",),
                "fpi",
                "as net2wider in even shares, through norms too, which changes the function",
            ),
            tolerant=True,
        ),
        replace(
            _first((), "interpolate", "as preserve, but tables of positions are stretched"),
            stretch=True,
        ),
        _first(
            ("pair",),
            "pair",
            "new coordinates come in equal pairs, which what sums them reads with opposite signs",
        ),
    )
}


# What new blocks are: the identity, copies that compute in some order, or parts of the old blocks (no
# preservation).
DEPTH = ("identity", "stack", "split")


@dataclass(frozen=True)
class Chosen:
    """A method for width and one for depth; ``order`` is empty where new blocks are the identity, and
    ``split`` says that a block and its copies share its branches."""

    width: Method
    order: str = ""
    split: bool = False


def method(text: str) -> Chosen:
    """The methods that ``text`` names, joined by a plus, options after a colon: ``"lemon"``, ``"stack"``,
    ``"clone:noise=0.1,unequal=0.5+stack:order=interleave"``.

    ``noise`` and ``unequal`` are those of ``Split``, for methods that copy; ``order`` is one of
    ``rewrite.orders``. Raises MeristemError where there is no such method or option.
    """
    out = Chosen(METHODS["preserve"])
    seen: set[str] = set()
    for word in str(text).split("+"):
        name, _, options = (part.strip() for part in word.partition(":"))
        part = "depth" if name in DEPTH else "width"
        if part in seen:
            raise MeristemError(f"method={text!r} names two methods of {part}; give one")
        seen.add(part)
        given = dict(_option(text, w) for w in options.split(",")) if options else {}
        if part == "depth":
            out = replace(out, order=_order(text, name, given), split=name == "split")
        else:
            out = replace(out, width=_width(text, name, given))
    return out


def _width(text: str, name: str, given: dict[str, str]) -> Method:
    found = METHODS.get(name)
    if found is None:
        raise MeristemError(
            f"method={text!r} is not known; choose from {', '.join((*METHODS, *DEPTH))}"
        )
    names = [f.name for f in fields(Split)]
    numbers = {k: n for k, value in given.items() if (n := _number(value)) is not None}
    if set(numbers) != set(given) or not set(given) <= set(names):
        raise MeristemError(
            f"method={text!r}: the options of {name} are {' and '.join(f'{n}=0.1' for n in names)}, 0 or "
            "more"
        )
    if given and not found.copies:
        others = ", ".join(m.name for m in METHODS.values() if m.copies)
        raise MeristemError(
            f"{', '.join(given)} is shared among copies, and the method {name} makes none; these do: "
            f"{others}"
        )
    return replace(found, split=replace(found.split, **numbers))


def _number(text: str) -> float | None:
    """A finite number that is not negative."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _order(text: str, name: str, given: dict[str, str]) -> str:
    order = "interleave" if name == "split" else ""
    if name == "stack":
        order = given.pop("order", "whole")
    if given or (order and order not in ORDERS):
        known = f"order={', '.join(ORDERS)}" if name == "stack" else "none"
        raise MeristemError(f"method={text!r}: the options of {name} are {known}")
    return order


def _option(text: str, word: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in word.partition("="))
    if not equals:
        raise MeristemError(f"method={text!r}: {word!r} is no option; give name=value")
    return name, value
