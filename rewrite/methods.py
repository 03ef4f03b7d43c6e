"""Methods: which strategies the planner may try for new coordinates, and what new blocks are.

A method of width never says what a weight holds: it names strategies, and the proof decides whether they
preserve the function and what follows for every weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from meristem.rewrite.blocks import COPIES
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import EVEN, Split
from meristem.rewrite.orders import ORDERS


@dataclass(frozen=True)
class Method:
    """``graph`` and ``weights`` are the strategies in order, by what may compensate; ``split`` is how
    what sums copies is shared among them. ``tolerant`` methods accept what preserves the function nearly;
    those that ``stretch`` tables of positions do not preserve it. ``donors`` are further tensors that
    recipes read: of the ``next`` block, or of other ``models``; ``settings`` are numbers of its own,
    ``batches`` says that it learns on some; ``deepens`` is the method for depth that goes with it where
    none is named; where it makes ``units``, rows of tables grow as ``preserve`` has them; with ``rounds``
    what cannot be copied to a size is copied to the multiple before it first."""

    name: str
    summary: str
    graph: tuple[str, ...]
    weights: tuple[str, ...]
    split: Split = EVEN
    tolerant: bool = False
    donors: str = ""
    stretch: bool = False
    settings: Mapping[str, float] = field(default_factory=dict)
    batches: bool = False
    deepens: str = ""
    units: bool = False
    rounds: bool = False

    @property
    def preserves(self) -> bool:
        """Is the function kept, whatever the plan?"""
        return self.widens_exactly and not self.stretch

    @property
    def widens_exactly(self) -> bool:
        """Is the function kept by what grows in width besides tables of positions?"""
        return not (self.tolerant or self.donors or self.settings.get("mask"))

    @property
    def options(self) -> dict[str, float]:
        """Numbers that may be given after a colon, with their defaults."""
        return dict(self.settings) or (asdict(self.split) if self.copies else {})

    def with_options(self, given: Mapping[str, float]) -> Method:
        """The method with other numbers."""
        if self.settings:
            return replace(self, settings={**self.settings, **given})
        return replace(self, split=replace(self.split, **given))

    def order(self, compensate: str) -> tuple[str, ...]:
        """The strategies under a way to compensate."""
        return self.weights if compensate == "weights" else self.graph

    @property
    def fuses(self) -> bool:
        """Does it set other models beside this one?"""
        return self.donors == "models"

    @property
    def copies(self) -> bool:
        """Is anything copied, so that there is something to share?"""
        return bool(set(self.graph) & set(COPIES))


def _only(name: str, summary: str, **more: Any) -> Method:
    return Method(name, summary, (name,), (name,), **more)


def _first(names: tuple[str, ...], name: str, summary: str, **more: Any) -> Method:
    """These strategies where they preserve the function, then those of ``preserve``."""
    graph = (*names, "zero", "mean", "statistics")
    return Method(name, summary, graph, (*names, "zero", "mean", "copy"), **more)


def _copies(name: str, summary: str, **more: Any) -> Method:
    return Method(name, summary, ("copy",), ("copy",), **more)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        # Copies lock twins, so they are taken only where weights alone must carry the change.
        _first((), "preserve", "zeros, means, or norms with statistics over the old coordinates"),
        _only("zero", "one factor of every product over new coordinates is zero"),
        _only("mean", "new coordinates are the mean of the old"),
        _only("statistics", "norms take their statistics over the old coordinates"),
        _copies(
            "copy", "whole multiples: every coordinate is repeated, what sums them is shared evenly"
        ),
        _copies(
            "clone",
            "whole multiples: the model is tiled, what sums is shared evenly, or with noise that cancels",
            units=True,
        ),
        _first(
            ("replicas", "circular"),
            "net2wider",
            "new coordinates repeat old ones drawn at random, what sums them is shared unequally",
            split=Split(unequal=0.5),
        ),
        _first(
            ("circular",),
            "lemon",
            "new coordinates repeat the old ones in turn, what sums them is shared entry by entry",
            split=Split(noise=0.5),
            rounds=True,
        ),
        _first(
            ("pair",),
            "pair",
            "new coordinates come in equal pairs, which what sums them reads with opposite signs",
        ),
        Method(
            "gradmax",
            "new units are zero, and what sums them is where their gradient on batches is largest",
            ("incoming",),
            ("incoming",),
            batches=True,
            units=True,
        ),
        Method(
            "masked",
            "new units are drawn and stand behind a mask, 0 at first, that norms weigh by",
            ("statistics", "zero"),
            ("zero",),
            settings={"mask": 0.0},
        ),
        _copies(
            "fuse",
            "whole multiples: several models side by side, what sums them all is their mean",
            donors="models",
            units=True,
        ),
        # What follows does not preserve the function, and says so.
        _first(
            ("replicas",),
            "fpi",
            "as net2wider in even shares, through norms too, which changes the function",
            tolerant=True,
        ),
        _first(
            ("circular",),
            "aki",
            "new units of a block are those of the next block, what sums them is shared evenly",
            tolerant=True,
            donors="next",
        ),
        _first(
            ("rms",),
            "rms",
            "new units are drawn like the old, and what sums them is scaled by sqrt(n / n')",
            tolerant=True,
        ),
        _first(
            ("replicas",),
            "learned",
            "new units are combinations of the old, learned on batches and folded into the weights",
            tolerant=True,
            settings={"steps": 100, "rate": 0.01, "rank": 0, "noise": 0.03, "tied": 0},
            batches=True,
            deepens="learned",
        ),
        _first(
            (), "interpolate", "as preserve, but tables of positions are stretched", stretch=True
        ),
    )
}


# What new blocks are: the identity, copies that compute in some order, or parts of the old blocks (no
# preservation).
DEPTH = ("identity", "cancel", "net2deeper", "stack", "split")
# Methods of depth that change blocks which another one has copied before.
COPIED = {"learned": "stack"}
# What can be chosen of it, the first by default.
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    # What new blocks that are the identity hold but for what is zero.
    "identity": {"insides": ("copied", "fresh")},
    "stack": {"order": tuple(ORDERS)},
    # What is repeated, and what carries 1/k.
    "split": {"by": ("block", "sublayer"), "scalars": ("folded", "explicit")},
}
# Experts from a dense MLP, of which each token takes so many.
UPCYCLE, TOP = "upcycle", 2


@dataclass(frozen=True)
class Chosen:
    """A method for width and one for depth. ``order`` is that of copies that compute at once, empty where
    new blocks are the identity, whose ``insides`` are copied or fresh; what is split are its ``parts`` or
    whole blocks, by ``explicit`` scalars or folded ones; ``top`` is how many experts a token takes where
    MLPs become mixtures, else zero."""

    width: Method
    depth: str = "identity"
    order: str = ""
    top: int = 0
    insides: str = "copied"
    parts: bool = False
    explicit: bool = False

    @property
    def copied(self) -> str:
        """The method of depth that copies blocks in a growth of its own before; empty for most."""
        return COPIED.get(self.depth, "")

    @property
    def divides(self) -> bool:
        """Do all copies of a block do together what it did, each a part of it?"""
        return self.depth == "split"


def method(text: str) -> Chosen:
    """The methods that ``text`` names, joined by a plus, options after a colon: ``"lemon"``, ``"stack"``,
    ``"clone:noise=0.1,unequal=0.5+stack:order=interleave"``, ``"upcycle:top=2"``.

    ``noise`` and ``unequal`` are those of ``Split``, for methods that copy; ``order`` is one of
    ``rewrite.orders``. Raises MeristemError where there is no such method or option.
    """
    out = Chosen(METHODS["preserve"])
    named = words(text)
    for part, word in named.items():
        name, _, options = (part.strip() for part in word.partition(":"))
        given = _options(text, options)
        if part == "depth":
            out = replace(out, depth=name, **_depth(text, name, given))
        elif part == "experts":
            out = replace(out, top=_top(text, given))
        elif part == "positions" and "width" in named:
            _width(text, name, given)
            out = replace(out, width=replace(out.width, stretch=True))
        else:
            out = replace(out, width=_width(text, name, given))
    if "depth" not in named and out.width.deepens:
        out = replace(out, depth=out.width.deepens)
    return out


def words(text: str) -> dict[str, str]:
    """The words that ``text`` joins, by what each is for: ``width``, ``depth``, ``experts``, or
    ``positions`` (which stretches tables whatever the method of width).

    Raises MeristemError where two are for one thing.
    """
    out: dict[str, str] = {}
    for word in str(text).split("+"):
        name = word.partition(":")[0].strip()
        found = METHODS.get(name)
        part = "depth" if name in DEPTH else "experts" if name == UPCYCLE else "width"
        if found is not None and found.stretch:
            part = "positions"
        if part in out:
            raise MeristemError(f"method={text!r} names two methods of {part}; give one")
        out[part] = word.strip()
    return dict(
        sorted(out.items(), key=lambda item: item[0] == "positions")
    )  # it adds to the width


def only(text: str, *parts: str) -> str:
    """The words of ``text`` for some parts; ``preserve`` where it has none."""
    named = words(text)
    return "+".join(named[p] for p in parts if p in named) or "preserve"


def _width(text: str, name: str, given: dict[str, str]) -> Method:
    found = METHODS.get(name)
    if found is None:
        raise MeristemError(
            f"method={text!r} is not known; choose from {', '.join((*METHODS, *DEPTH, UPCYCLE))}"
        )
    if given and not found.options:
        others = ", ".join(m.name for m in METHODS.values() if set(given) <= set(m.options))
        raise MeristemError(
            f"method={text!r}: the method {name} takes no {' and no '.join(given)}"
            + (f"; these do: {others}" if others else "")
        )
    numbers = {
        k: n
        for k, value in given.items()
        if k in found.options and (n := _number(value, found.options[k])) is not None
    }
    most = float("inf") if found.settings else 10  # larger shares would cost the sum its digits
    fits = (
        set(numbers) == set(given) <= set(found.options)
        and max(numbers.values(), default=0) <= most
    )
    if not fits:
        known = " and ".join(
            f"{k}={v:g}" + (" (whole)" if isinstance(v, int) else "")
            for k, v in found.options.items()
        )
        bound = "0 or more" if found.settings else f"from 0 to {most}"
        raise MeristemError(f"method={text!r}: the options of {name} are {known}, {bound}")
    return found.with_options(numbers)


def _number(text: str, default: float) -> float | None:
    """A finite number that is not negative, and whole where the default is."""
    try:
        number = float(text)
    except ValueError:
        return None
    if isinstance(default, int):
        return int(number) if number.is_integer() and number >= 0 else None
    return number if 0 <= number < float("inf") else None


def _depth(text: str, name: str, given: dict[str, str]) -> dict[str, Any]:
    """What is chosen of a method of depth, as fields of ``Chosen``."""
    choices = CHOICES.get(name, {})
    if not all(value in choices.get(option, ()) for option, value in given.items()):
        known = " and ".join(f"{option}={', '.join(v)}" for option, v in choices.items())
        raise MeristemError(f"method={text!r}: the options of {name} are {known or 'none'}")
    got = {option: given.get(option, values[0]) for option, values in choices.items()}
    if name != "split":
        return dict(got)
    parts, explicit = got["by"] == "sublayer", got["scalars"] == "explicit"
    return {"order": "interleave", "parts": parts, "explicit": explicit}


def _top(text: str, given: dict[str, str]) -> int:
    top = given.pop("top", str(TOP))
    if given or not top.isdecimal() or int(top) < 2:
        raise MeristemError(
            f"method={text!r}: the option of {UPCYCLE} is top={TOP}, 2 or more: how many experts a token "
            "takes; the weight of a single one is always 1, so that no router would learn"
        )
    return int(top)


def _options(text: str, words: str) -> dict[str, str]:
    """Options by name; MeristemError where one comes twice."""
    pairs = [_option(text, word) for word in words.split(",")] if words else []
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise MeristemError(f"method={text!r} gives {twice[0]} twice; give it once")
    return dict(pairs)


def _option(text: str, word: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in word.partition("="))
    if not equals:
        raise MeristemError(f"method={text!r}: {word!r} is no option; give name=value")
    return name, value
