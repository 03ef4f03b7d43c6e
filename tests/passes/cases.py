"""What the tests of the passes share: dimensions made by hand, and growths measured in float64."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import meristem
from meristem.passes import WIDTH_PASSES
from meristem.rewrite.axes import Term, prod
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.request import Wish
from tests.e2e.measure import algebra_error, leaves
from tests.zoo import build

# Relative error of two programs in float64.
LIMIT = 1e-10


def dimension(kind: str, term: Term, inner: tuple[Term, ...] = ()) -> Dimension:
    return Dimension(f"{kind}@here", kind, term.size, "here", (), term=term, inner=inner)


def wish(d: Dimension, target: int | str) -> Wish:
    return Wish(d, target, d.name)


def solve(*wishes: Wish, lifted: bool = False) -> tuple[dict[Term, int], dict[str, int]]:
    """Solve wishes of one pass."""
    return WIDTH_PASSES[wishes[0].dimension.kind].solve(wishes, lifted=lifted)


def reached(kind: str, size: int, target: int | str) -> int:
    """The size that a target comes to, for a plain axis."""
    d = dimension(kind, Term(size))
    return solve(wish(d, target))[1][d.name]


def grouped(kv: int, group: int) -> tuple[Dimension, Dimension, Dimension]:
    """The dimensions of grouped queries: heads, kv_heads, group."""
    a, b = Term(kv), Term(group)
    return (
        dimension("heads", prod([a, b]), (a, b)),
        dimension("kv_heads", a),
        dimension("group", b),
    )


@lru_cache(maxsize=8)
def traced(name: str) -> tuple[Any, tuple[Any, ...]]:
    """A zoo model traced with static shapes, and its flat inputs."""
    module, args, kwargs = build(name)
    return meristem.trace(module, args, kwargs, None), tuple(leaves(args, kwargs))


def grow_and_measure(name: str, sizes: dict[str, int | str], **options: Any) -> tuple[Any, float]:
    """The grown model, and its relative error in float64."""
    model, inputs = traced(name)
    grown = meristem.grow(model, sizes, **options)
    return grown, algebra_error(model, grown, *inputs)


def sizes_of(model: Any, kind: str) -> set[int]:
    return {d.size for d in model.dimensions if d.kind == kind}
