"""Wrong semantics, made at run time: each must be caught by some small graph.

A mutant drops a tie, an obligation, a pin or a check, or gets a factor, a sign or a zero wrong. ``cases``
are graphs of this folder of which at least one must fail under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from meristem.rewrite import registry

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """``patch`` installs it; ``cases`` are where it must show."""

    name: str
    patch: Patch
    cases: tuple[str, ...]


# Left out, because nothing wrong can follow from them:
# - a zero of `rsqrt`, `reciprocal` or a divisor: their domain wants a positive operand, never a zero one;
# - linearity of `sqrt` and `log`: signs are not proved of anything that is a mean;
# - the order of twins in `permute`: no obligation reads one of two fresh digits of a block;
# - the pins of `grouped_contract`: what says where its segments end is pinned on its own;
# - a shifted gain that is scaled as it is stored: the program's constant is then scaled too.
# Conservative pins are rows of PINNED and CONSERVATIVE in test_growth_rows.py.
MUTANTS: list[Mutant] = []


def mutant(name: str, *cases: str) -> Callable[[Patch], Patch]:
    def add(patch: Patch) -> Patch:
        MUTANTS.append(Mutant(name, patch, cases))
        return patch

    return add


def row(kind: str, **fields: Any) -> Patch:
    """Change fields of one elementwise row."""

    def patch(m: pytest.MonkeyPatch) -> None:
        m.setitem(registry._REGISTRY, kind, replace(registry._REGISTRY[kind], **fields))

    return patch


def rows(name: str, kinds: Sequence[str], case: str, **fields: Any) -> None:
    """The same wrong field on several rows, a mutant each."""
    for kind in kinds:
        mutant(f"{kind}: {name}", f"{kind}: {case}")(row(kind, **fields))


def method(owner: Any, name: str, new: Any) -> Patch:
    return lambda m: m.setattr(owner, name, new)


def nothing(*_: Any, **__: Any) -> None:
    return None
