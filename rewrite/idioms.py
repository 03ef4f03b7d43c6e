"""The last steps of building a view: idioms that exporters spell out, and what nothing uses.

The view is rewritten in place, the carrier is untouched: an idiom's operator keeps the native node
of its last part, and constants keep their addresses.
"""

from __future__ import annotations

from typing import Any

from meristem.rewrite.fuse import fuse_norms
from meristem.rewrite.graph import Graph, Op, Value


def simplify(graph: Graph) -> Graph:
    """Rewrite every idiom, then drop what no output needs."""
    fuse_norms(graph)
    for op in graph.ops:
        if op.kind == "norm":
            _centre(op)
        elif op.kind == "concat":
            _roll(op)
    return prune(graph)


def prune(graph: Graph) -> Graph:
    """Drop operators, literals and weights that no output depends on."""
    needed: set[Value] = {v for _, v in graph.outputs}
    kept = []
    for op in reversed(graph.ops):
        if any(v in needed for v in op.outputs):
            needed.update(op.inputs)
            kept.append(op)
        else:
            for i, v in enumerate(op.inputs):
                v.uses.remove((op, i))
    graph.ops = kept[::-1]
    graph.literals = [v for v in graph.literals if v in needed]
    graph.unused.extend(w for w in graph.weights if w not in needed)
    graph.weights = [w for w in graph.weights if w in needed]
    return graph


def _become(op: Op, kind: str, inputs: tuple[Value, ...], attrs: dict[str, Any]) -> None:
    """Turn an operator into another one with the same result."""
    for i, v in enumerate(op.inputs):
        v.uses.remove((op, i))
    op.kind, op.inputs, op.attrs, op.slots = kind, inputs, attrs, {}
    for i, v in enumerate(inputs):
        v.uses.append((op, i))


def _centre(op: Op) -> None:
    """An RMS norm of x - mean(x) over the same axes is a layer norm of x."""
    sub = op.inputs[0].producer
    if op.attrs["center"] or "reducers" in op.attrs or sub is None or sub.kind != "sub":
        return
    x, mean = sub.inputs[0], sub.inputs[1].producer
    if mean is None or mean.kind != "sum" or mean.inputs[0] is not x:
        return
    at = mean.attrs
    if at["mean"] and at["keep"] and tuple(at["axes"]) == tuple(op.attrs["axes"]):
        _become(op, "norm", (x, *op.inputs[1:]), {**op.attrs, "center": True})


def _roll(op: Op) -> None:
    """concat(x[k:], x[:k]) along one axis moves coordinates by position."""
    if len(op.inputs) != 2:
        return
    tail, head = (v.producer for v in op.inputs)
    if tail is None or head is None or not tail.kind == head.kind == "slice":
        return
    axis, x = op.attrs["axis"], tail.inputs[0]
    if head.inputs[0] is not x:
        return
    if any(s.attrs["axis"] != axis or s.attrs.get("step", 1) != 1 for s in (tail, head)):
        return
    k = tail.attrs["start"]
    if (tail.attrs["end"], head.attrs["start"], head.attrs["end"]) == (x.shape[axis], 0, k):
        _become(op, "rearrange", (x,), {"how": "roll", "shifts": (-k,), "axes": (axis,)})
