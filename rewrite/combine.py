"""Blocks that are combinations of blocks: W'_l = sum_j D_lj W_j.

The depth of linear growth operators (arXiv:2303.00980): a stack of n blocks has become one of n' by copies,
and then every block l is summed from the first n with the row D_l. There is one D [n', n] for each kind of
tensor (what a module of the block reads with the same sizes), or one for a whole stack. Blocks are summed
within their phase of the stack's period, with blocks that are built alike. Widths grow alike in all
terms, so that B (sum_j D_lj W_j) A^t is what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from meristem.rewrite.edits import EditScript, WeightEdit
from meristem.rewrite.errors import CarrierError, NotPreserved
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array, Weight
from meristem.rewrite.lift import Lift
from meristem.rewrite.numbering import within
from meristem.rewrite.orders import whole
from meristem.rewrite.packed import unpack
from meristem.rewrite.stacks import Stack

_DEPTH = "depth"


@dataclass(frozen=True)
class Sum:
    """What one tensor of a block becomes: the sum of ``terms`` with the entries of the matrix ``key`` in
    this ``row`` and these ``columns``; ``source`` is the column of the block that it is a copy of."""

    weight: Weight
    key: str
    row: int
    columns: tuple[int, ...]
    terms: tuple[Weight, ...]
    source: int


def is_depth(key: str) -> bool:
    """Is a learned matrix of this name one between blocks?"""
    return key.startswith(f"{_DEPTH}|")


def counts(maps: Mapping[str, str], stacks: Mapping[str, Stack]) -> dict[str, int]:
    """How many blocks the learned matrices of each stack sum over.

    Raises CarrierError where they are of a stack that is not there, or has other sizes.
    """
    out: dict[str, int] = {}
    for key in filter(is_depth, maps):
        name = key.split("|")[1]
        rows = stacks[name].size if name in stacks else 0
        size = unpack(maps[key], (-1,)).size
        if not rows or size % rows:
            raise CarrierError(
                f"the plan combines the blocks of {name}, and this model has no such stack of that size; "
                "make the plan again from this model",
                dimension=name,
            )
        out[name] = size // rows
    return out


def sums(stack: Stack, before: int, *, tied: bool) -> list[Sum]:
    """What the tensors of a stack become whose first ``before`` blocks are the old ones.

    Raises NotPreserved where a block is no copy of one of them.
    """
    out = []
    order = whole(before, stack.size)
    q = 1 if before % stack.period else stack.period
    for row, block in enumerate(stack.blocks):
        own = list(block.weights)
        alike = [
            j for j in range(row % q, before, q)
            if stack.blocks[j].coarse == block.coarse and _shapes(stack.blocks[j].weights) == _shapes(own)
        ]  # fmt: skip
        if order[row] not in alike:
            raise NotPreserved(
                f"block {row} of {stack.name} is built otherwise than block {order[row]}, which it is a "
                'copy of; use method="learned+stack"',
                dimension=stack.name,
                place=block.place,
            )
        for k, w in enumerate(own):
            if w.role == "parameter" and w.is_float:
                kind = "" if tied else f"|{_kind(stack, row, w, k)}"
                terms = tuple(stack.blocks[j].weights[k] for j in alike)
                key = f"{_DEPTH}|{stack.name}{kind}"
                out.append(Sum(w, key, row, tuple(alike), terms, order[row]))
    return out


def _shapes(weights: Iterable[Weight]) -> list[tuple[tuple[int, ...], str]]:
    return [(w.shape, w.role) for w in weights]


def _kind(stack: Stack, row: int, w: Weight, number: int) -> str:
    """The module of its block that reads a tensor, and the sizes in order, since exporters rename what they
    transpose; the tensor's number where modules show no blocks."""
    place = w.uses[0][0].place
    slots = [] if stack.numbering is None else stack.numbering.of(row)
    for i, module in enumerate(slots):
        if within(place, [module]):
            return f"{i}{place[len(module) :]} {'x'.join(map(str, sorted(w.shape)))}"
    return str(number)


def shape(summed: Iterable[Sum], key: str, stacks: Mapping[str, Stack], before: int) -> Array:
    """Which entries of a matrix [blocks, ``before``] are summed with: 1 at the start, 0 later, -1 never.

    The start is the order in which blocks are copied, so that nothing changes.
    """
    out = np.full((stacks[key.split("|")[1]].size, before), -1)
    for s in summed:
        if s.key == key:
            out[s.row, list(s.columns)] = 0
            out[s.row, s.source] = 1
    return out


def combine(script: EditScript, summed: Iterable[Sum], matrices: Mapping[str, Array]) -> None:
    """Give tensors the recipes of their sums, beside what else is done to them.

    Raises CarrierError where a matrix is missing.
    """
    at = {e.weight: i for i, e in enumerate(script.weights)}
    for s in summed:
        if s.key not in matrices:
            raise CarrierError(
                f"the plan does not say how {s.weight.name} is combined: its blocks are named otherwise "
                'here; make the plan with method="learned:tied=1", which has one matrix for all tensors',
                weight=s.weight.name,
            )
        row = matrices[s.key][s.row]
        parts = [(w, float(row[j])) for j, w in zip(s.columns, s.terms, strict=True) if row[j]] or [
            (s.weight, 0.0)
        ]
        edit = script.weights[at[s.weight]] if s.weight in at else WeightEdit(s.weight, _as_is(s))
        recipe = replace(
            edit.expansion,
            donors=tuple(w.name for w, _ in parts),
            mix=tuple(c for _, c in parts),
        )
        new = WeightEdit(s.weight, recipe, tuple(w for w, _ in parts))
        if s.weight in at:
            script.weights[at[s.weight]] = new
        else:
            script.weights.append(new)


def _as_is(s: Sum) -> Expansion:
    return Expansion(s.weight.name, tuple(Lift(("atom", n, n)) for n in s.weight.shape))


__all__ = ["Sum", "combine", "counts", "is_depth", "shape", "sums"]
