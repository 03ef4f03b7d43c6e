"""Operators that write by index."""

from __future__ import annotations

import numpy as np

from meristem.rewrite.graph import Value
from tests.rules.cases import case
from tests.rules.view_carrier import Net


def places(b: Net, *index: int, shape: tuple[int, ...] = (1, -1, 1)) -> Value:
    return b.literal(np.array(index).reshape(shape), "int64")


def rows(b: Net, count: int = 4, width: int = 5) -> Value:
    return b.dense(b.input(2, count, 3), width)


def flat(b: Net, y: Value) -> Value:
    return b.reshape(y, [y.shape[0] * y.shape[1], *y.shape[2:]])


def write(b: Net, x: Value, i: Value, z: Value, *, axis: int = 1, add: bool = False) -> Value:
    return b.apply("scatter", x, i, z, axis=axis, add=add)


for _add in (False, True):
    _word = "add" if _add else "set"

    @case(f"scatter: rows, {_word}")
    def _rows(b: Net, add: bool = _add) -> Value:
        x, z = rows(b), b.apply("relu", rows(b, 2))
        return flat(b, b.rms(write(b, x, places(b, 3, 1), z, add=add)))

    @case(f"scatter: rows, {_word}, layer norm")
    def _layer_norm(b: Net, add: bool = _add) -> Value:
        x, z = rows(b), rows(b, 2)
        return flat(b, b.layer_norm(write(b, x, places(b, 3, -4), z, add=add)))

    @case(f"scatter: one of both behind a norm, {_word}")
    def _scaled(b: Net, add: bool = _add) -> Value:
        x, z = rows(b), b.norm(rows(b, 2), [-1], 0.1, False, "eps")
        return flat(b, b.apply("relu", write(b, x, places(b, 0, 2), z, add=add)))

    @case(f"scatter: into zeros, {_word}")
    def _zeros(b: Net, add: bool = _add) -> Value:
        z = b.norm(rows(b, 3), [-1], 0.1, False, "eps")
        zeros = b.apply("full", shape=(2, 4, 5), value=0.0, dtype="float64")
        return flat(b, b.rms(write(b, zeros, places(b, 3, 0, 1), z, add=add)))


@case("scatter: a place for every coordinate")
def _own_places(b: Net) -> Value:
    h = rows(b)
    best = b.apply("extremum", h, axes=(1,), keep=True, how="argmax")
    y = write(b, h, best, b.dense(b.input(2, 1, 3), 5), add=True)
    return flat(b, b.layer_norm(y))


@case("scatter: along a grown axis")
def _along(b: Net) -> Value:
    h = b.dense(b.input(2, 3), 6)
    return b.apply("relu", write(b, h, places(b, 4, 1, shape=(1, 2)), b.slice(h, 1, 0, 2)))


@case("scatter: into a part of a grown axis")
def _part(b: Net) -> Value:
    return flat(b, b.apply("relu", write(b, rows(b), places(b, 2), rows(b, 1, 3))))


@case("scatter: beside two grown axes")
def _two(b: Net) -> Value:
    x = b.contract(b.input(2, 3), b.weight(4, 6, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    z = b.contract(b.input(1, 3), b.weight(4, 6, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    return b.reshape(write(b, x, places(b, 1, shape=(1, 1, 1)), z, axis=0), [2, 24])
