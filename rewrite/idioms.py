"""The last steps of building a view: idioms that exporters spell out, and what nothing uses.

The view is rewritten in place, the carrier is untouched: an idiom's operator keeps the native node of
its last part, and constants keep their addresses.
"""

from __future__ import annotations

from meristem.rewrite.fuse import fuse_norms
from meristem.rewrite.graph import Graph, Op, Value


def simplify(graph: Graph) -> Graph:
    """Rewrite every idiom, then drop what no output needs."""
    fuse_norms(graph)
    for op in graph.ops:
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


def _roll(op: Op) -> bool:
    """concat(x[k:], x[:k]) along one axis moves coordinates by position."""
    if op.kind != "concat" or len(op.inputs) != 2:
        return False
    tail, head = (v.producer for v in op.inputs)
    if tail is None or head is None or not tail.kind == head.kind == "slice":
        return False
    axis, x = op.attrs["axis"], tail.inputs[0]
    if head.inputs[0] is not x:
        return False
    if any(s.attrs["axis"] != axis or s.attrs.get("step", 1) != 1 for s in (tail, head)):
        return False
    k = tail.attrs["start"]
    if (tail.attrs["end"], head.attrs["start"], head.attrs["end"]) != (x.shape[axis], 0, k):
        return False
    for i, v in enumerate(op.inputs):
        v.uses.remove((op, i))
    op.kind, op.inputs, op.slots = "rearrange", (x,), {}
    op.attrs = {"how": "roll", "shifts": (-k,), "axes": (axis,)}
    x.uses.append((op, 0))
    return True
