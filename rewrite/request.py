"""Requests: selectors and targets to dimensions and sizes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Integral

from meristem.rewrite.dimensions import KINDS, Dimension
from meristem.rewrite.errors import PinnedDimension, SelectorError, SizeError

Target = int | str

# No machine holds more coordinates along one axis; sizes that count them have 63 bits.
MOST = 10**12


@dataclass(frozen=True)
class Wish:
    """One dimension with the target that its most specific selector gives."""

    dimension: Dimension
    target: Target
    selector: str


def resolve(
    dimensions: Sequence[Dimension], sizes: Mapping[str, Target], *, boundary: str = "pin"
) -> list[Wish]:
    """Match selectors against dimensions; the more specific selector wins.

    Raises SelectorError (nothing matches, or equal selectors disagree) and PinnedDimension.
    """
    chosen: dict[str, tuple[int, str, Target]] = {}
    named = {d.name: d for d in dimensions}
    if not isinstance(sizes, Mapping):
        raise SizeError('sizes is a mapping of selectors to sizes, as {"mlp": "x2"}')
    for selector, given in sizes.items():
        if not isinstance(selector, str):
            raise SelectorError(f'a selector is a string, as "mlp", not {selector!r}')
        target = (
            int(given) if isinstance(given, Integral) and not isinstance(given, bool) else given
        )
        check_target(selector, target)
        hits = matches(dimensions, selector)
        if not hits:
            raise SelectorError(nothing_matches(selector, dimensions), selector=selector)
        rank = specificity(selector, named)
        for d in hits:
            known = chosen.get(d.name)
            if known is None or known[0] < rank:
                chosen[d.name] = (rank, selector, target)
            elif known[0] == rank and known[2] != target:
                raise SelectorError(
                    f"{known[1]!r} and {selector!r} are equally specific and ask for different sizes "
                    f"of {d.name}; give its full name",
                    selector=selector,
                    dimension=d.name,
                )
    wishes = [Wish(named[n], t, s) for n, (_, s, t) in chosen.items()]
    _refuse_pinned(wishes, boundary)
    return wishes


def matches(dimensions: Sequence[Dimension], selector: str) -> list[Dimension]:
    """Dimensions that a selector names: a kind, a kind at a place with wildcards, or a full name.

    Where a full name is but a kind (several parts of the model share the axis), ``kind@`` is that one.
    """
    if is_name(selector):
        exact = [d for d in dimensions if d.name == selector.removesuffix("@")]
        if exact or selector.endswith("@"):
            return exact
    kind, _, place = selector.partition("@")
    hits = [d for d in dimensions if d.kind == kind or kind in d.aliases]
    if not hits and kind == "head_dim":
        hits = [d for d in dimensions if d.kind in ("qk_dim", "value_dim")]
    return [d for d in hits if not place or fnmatchcase(d.place, place)]


def is_name(selector: str) -> bool:
    """A bare kind is a selector of its kind even where one dimension is called just that."""
    return "@" in selector or "#" in selector


def by_name(name: str) -> str:
    """The selector of the one dimension of that name."""
    return name if is_name(name) else f"{name}@"


def specificity(selector: str, names: Mapping[str, Dimension]) -> int:
    """Kind < kind with wildcards < kind at a place < full name."""
    if is_name(selector) and selector.removesuffix("@") in names:
        return 3
    if "@" not in selector:
        return 0
    return 1 if re.search(r"[*?\[]", selector) else 2


def check_target(selector: str, target: Target) -> None:
    """An int, "+n", "xf", or "%n" (the next multiple of n), none beyond all memory."""
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise SizeError(f'{selector}: {target!r} is not a size; give 64, "+8", "x1.5" or "%64"')
    if isinstance(target, str) and not re.fullmatch(
        r"\+?\d+|x\d+(\.\d+)?|%0*[1-9]\d*", target.strip()
    ):
        raise SizeError(f'{selector}: {target!r} is not a size; give 64, "+8", "x1.5" or "%64"')
    number = target if isinstance(target, int) else float(target.strip().lstrip("+x%"))
    if number > MOST:
        raise SizeError(
            f"{selector}: a size above {MOST:,} does not fit into memory; ask for a smaller one"
        )


def wanted(target: Target, size: int) -> tuple[int, bool]:
    """The size asked for, and whether it may be rounded to a feasible one."""
    if isinstance(target, int):
        return target, False
    text = target.strip()
    if text.startswith("+"):
        return size + int(text[1:]), False
    if text.startswith("x"):
        return round(exact(text, size)), True
    if text.startswith("%"):
        return -(-size // int(text[1:])) * int(text[1:]), False
    return int(text), False


def exact(target: Target, size: int) -> float:
    """What "xf" asks for before it is rounded; sizes are rounded once, to what is feasible."""
    text = str(target).strip()
    return size * float(text[1:]) if text.startswith("x") else float(wanted(target, size)[0])


def _refuse_pinned(wishes: Sequence[Wish], boundary: str) -> None:
    def blocked(d: Dimension) -> bool:
        return d.pinned is not None and not (d.boundary and boundary != "pin")

    pinned = [w for w in wishes if blocked(w.dimension)]
    if not pinned:
        return
    d = pinned[0].dimension
    free = [by_name(w.dimension.name) for w in wishes if not blocked(w.dimension)]
    advice = ""
    if d.boundary:
        advice = '; boundary="crop" keeps the interface, boundary="grow" lets it grow'
    if d.kind == "positions" and "sliding" in (d.pinned or ""):
        advice += '; it is a grid of image patches: ask for "image" with method="interpolate"'
    if free:
        advice += f"; of this request can grow: {', '.join(repr(n) for n in free[:4])}"
        advice += f" and {len(free) - 4} more" if len(free) > 4 else ""
    raise PinnedDimension(
        f"{d.name} ({d.size}) cannot grow: {d.pinned}{advice}",
        dimension=d.name,
        reason=d.pinned,
        selector=pinned[0].selector,
        rest=free,
    )


# Why a model may have nothing of a kind, and what would work.
_ABSENT = {
    "image": 'sizes of images grow with method="interpolate" alone, which is not exact, where an input '
    "[batch, channels, height, width] is read by convolutions or in patches",
    "positions": "this model stores no table of positions, so there is nothing to grow: where positions "
    "are computed (rotary, relative, by slopes), any length works already",
    "layers": "this model has no residual blocks (x + f(x)) that could be repeated or split: "
    'method="net2deeper" adds layers behind activations that are idempotent (relu), and widths grow '
    "anywhere",
    "experts": "no weight of this model holds experts along an axis, so that their number could grow: "
    'method="upcycle" makes mixtures of MLPs, and chooses the number once, for these experts are modules '
    'of their own; for another number grow the model before with it, as {"experts": 8}',
    "vocabulary": "this model reads no table by integers, so it has no vocabulary",
}


def nothing_matches(selector: str, dimensions: Sequence[Dimension]) -> str:
    """Why a selector names nothing, with the nearest names."""
    names = [d.name for d in dimensions]
    kinds = sorted({d.kind for d in dimensions})
    both = list(dict.fromkeys([*kinds, *names]))  # a dimension without a place is named by its kind
    near = difflib.get_close_matches(selector, both, n=4, cutoff=0.4)
    kind = selector.partition("@")[0]
    if kind in _ABSENT and kind not in kinds:
        return f"{_ABSENT[kind]}; its kinds are {', '.join(kinds)}"
    if kind in kinds:
        near = [n for n in names if n.startswith(kind + "@")][:4] or near
    word = "names no kind of dimension" if kind not in KINDS else "matches nothing in this model"
    hint = f"; nearest: {', '.join(near)}" if near else f"; its kinds are {', '.join(kinds)}"
    return f"the selector {selector!r} {word}{hint}"
