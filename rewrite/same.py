"""Are two graphs one program over weights of other values?"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from meristem.rewrite.forms import HANDLES
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight


def difference(a: Graph, b: Graph) -> str:
    """Where the second graph is another program than the first, in words; empty where it is the same.

    The same operators in the same order with the same constants, on weights of the same names, shapes and
    types; integers that are stored are constants.
    """
    if [(v.shape, v.dtype) for v in a.inputs] != [(v.shape, v.dtype) for v in b.inputs]:
        return "its inputs have other shapes or types"
    pairs: dict[Value, Value] = dict(zip(a.inputs, b.inputs, strict=True))
    for p, q in zip_longest(a.ops, b.ops):
        if p is None or q is None:
            return f"it has {'more' if p is None else 'fewer'} operators ({(p or q).where})"
        why = _differs(p, q, pairs)
        if why:
            return f"{why} at {p.where}"
        pairs |= zip(p.outputs, q.outputs, strict=True)
    if [pairs.get(v) for _, v in a.outputs] != [v for _, v in b.outputs]:
        return "its outputs are other values"
    return ""


def _differs(p: Op, q: Op, pairs: dict[Value, Value]) -> str:
    if p.kind != q.kind or len(p.inputs) != len(q.inputs) or len(p.outputs) != len(q.outputs):
        return f"it computes {q.kind} in place of {p.kind}"
    if {k: _plain(v) for k, v in p.attrs.items() if k not in HANDLES} != {
        k: _plain(v) for k, v in q.attrs.items() if k not in HANDLES
    }:
        return "an operator has other attributes"
    return next(
        (w for x, y in zip(p.inputs, q.inputs, strict=True) if (w := _leaf(x, y, pairs))), ""
    )


def _leaf(x: Value, y: Value, pairs: dict[Value, Value]) -> str:
    if isinstance(x, Weight) and isinstance(y, Weight):
        if (x.name, x.shape, x.dtype) != (y.name, y.shape, y.dtype):
            return f"{x.name} is {x.shape}, and the other's {y.name} {y.shape}"
        same = x.is_float or np.array_equal(x.array(), y.array())
        return "" if same else f"{x.name} holds other integers"
    if isinstance(x, Literal) and isinstance(y, Literal):
        same = x.data.shape == y.data.shape and bool(np.array_equal(x.data, y.data))
        return "" if same else "a constant differs"
    return "" if pairs.get(x) is y else "an operator reads another value"


def _plain(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x.tolist()
    return tuple(map(_plain, x)) if isinstance(x, (list, tuple)) else x


__all__ = ["difference"]
