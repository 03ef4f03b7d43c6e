"""What an elementwise operator makes of the signs of its operands: (non-negative, positive)."""

from __future__ import annotations

from meristem.rewrite.cell import Cell
from meristem.rewrite.formula import FALSE, TRUE, Formula, all_of, any_of

Sign = tuple[Formula, Formula]  # (non-negative, positive)


def positive(*_: Cell) -> Sign:
    return TRUE, TRUE


def nonneg(*_: Cell) -> Sign:
    return TRUE, FALSE


def same(x: Cell, *_: Cell) -> Sign:
    return x.nonneg, x.pos


def sum_sign(x: Cell, y: Cell) -> Sign:
    both = all_of([x.nonneg, y.nonneg])
    return both, any_of([all_of([x.pos, y.nonneg]), all_of([x.nonneg, y.pos])])


def product_sign(x: Cell, y: Cell) -> Sign:
    return all_of([x.nonneg, y.nonneg]), all_of([x.pos, y.pos])


def max_sign(x: Cell, y: Cell) -> Sign:
    return any_of([x.nonneg, y.nonneg]), any_of([x.pos, y.pos])


def min_sign(x: Cell, y: Cell) -> Sign:
    return all_of([x.nonneg, y.nonneg]), all_of([x.pos, y.pos])


def reciprocal_sign(x: Cell) -> Sign:
    return x.pos, x.pos


def pick(_: Cell, x: Cell, y: Cell) -> Sign:
    return all_of([x.nonneg, y.nonneg]), all_of([x.pos, y.pos])


def power_sign(x: Cell, p: Cell) -> Sign:
    return x.nonneg, x.pos
