"""The view as its own carrier: graphs written by hand, run in float64, and rebuilt from an edit script.

torch and ONNX need tens of milliseconds to build a program; a view needs a fraction of one, so the
properties and mutants of the semantics are tried here by the thousand. Nothing is shared with the real
backends: sizes and literals are edited at the slots, weights by their recipes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import meristem.rewrite.semantics  # noqa: F401  (fills the registry)
from meristem.rewrite.builder import Builder
from meristem.rewrite.edits import EditScript
from meristem.rewrite.graph import Array, Graph, Input, Literal, Op, Slot, Value, Weight
from meristem.rewrite.registry import semantics

# What the view can rewrite of each kind.
EDITABLE = {
    "reshape": ("shape",),
    "expand": ("shape",),
    "full": ("shape",),
    "slice": ("start", "end"),
    "range": ("end",),
}


class Net(Builder):
    """A builder for small graphs: random weights by name, inputs, and blocks that many cases use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def emit(
        self,
        kind: str,
        inputs: Sequence[Value],
        attrs: dict[str, Any] | None = None,
        slots: dict[str, Slot] | None = None,
    ) -> Op:
        op = super().emit(kind, inputs, attrs, {})
        op.native, op.origin = op, kind
        op.slots = {name: Slot(op, name) for name in EDITABLE.get(kind, ())}
        return op

    def literal(self, data: Any, dtype: str = "float64", role: Any = None) -> Literal:
        out = super().literal(data, dtype)
        out.slot = Slot(out, "literal")
        return out

    # -- leaves ---------------------------------------------------------------------------------

    def input(self, *shape: int, dtype: str = "float64", name: str = "") -> Input:
        out = Input(name or f"x{len(self.graph.inputs)}", shape, dtype)
        self.graph.inputs.append(out)
        return out

    def weight(
        self,
        *shape: int,
        data: Any = None,
        role: str = "parameter",
        dtype: str = "float64",
        spread: float = 0.6,
    ) -> Weight:
        """A weight with random values (or ``data``)."""
        name = f"w{len(self.graph.weights)}"
        if data is None:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            data = (rng.standard_normal(shape) + 0.1) * spread
        array = np.asarray(data)
        out = Weight(name, array.shape, dtype, read=lambda: array, role=role)
        self.graph.weights.append(out)
        return out

    # -- blocks ---------------------------------------------------------------------------------

    def dense(self, x: Value, width: int, *, bias: bool = True) -> Value:
        """A linear layer with weights of its own."""
        w = self.weight(width, x.shape[-1])
        return self.linear(x, w, self.weight(width) if bias else None)

    def rms(self, x: Value, *, eps: float = 0.1, gain: bool = True) -> Value:
        """RMS norm over the last axis; a large epsilon so that a wrong one shows."""
        y = self.norm(x, [-1], eps, False, "eps")
        return self.apply("mul", y, self.weight(x.shape[-1])) if gain else y

    def layer_norm(self, x: Value, *, eps: float = 0.1) -> Value:
        y = self.norm(x, [-1], eps, True, "eps")
        y = self.apply("mul", y, self.weight(x.shape[-1]))
        return self.apply("add", y, self.weight(x.shape[-1]))

    def output(self, *values: Value) -> Graph:
        for v in values:
            self.graph.outputs.append((f"y{len(self.graph.outputs)}", v))
        return self.graph


def random_inputs(graph: Graph, seed: int = 0, high: int = 2) -> dict[str, Array]:
    """Normal floats; integers below ``high``."""
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal(v.shape) if v.is_float else rng.integers(0, high, v.shape)
        for v in graph.inputs
    }


def run(graph: Graph, inputs: Mapping[str, Array]) -> dict[Value, Array]:
    """Every value of the graph, in float64."""
    held: dict[Value, Array] = {v: inputs[v.name] for v in graph.inputs}
    held.update({w: np.asarray(w.array()) for w in graph.weights})
    held.update({v: v.data for v in graph.literals})
    with np.errstate(all="ignore"):
        for op in graph.ops:
            arrays = [held[v] for v in op.inputs]
            if "old" in op.attrs:
                results = [_old_statistics(op, *arrays)]
            else:
                results = semantics(op.kind).evaluate(op, *arrays)
            for v, array in zip(op.outputs, results, strict=True):
                assert array.shape == v.shape, f"{op!r} evaluates to {array.shape}"
                held[v] = array
    return held


def _old_statistics(op: Op, x: Array, eps: Array) -> Array:
    """The norm whose mean and variance are those of the old coordinates."""
    axis, old = op.attrs["axis"], op.attrs["old"]
    part = np.take(x, old, axis)
    if op.attrs["center"]:
        mean = part.mean(axis, keepdims=True)
        x, part = x - mean, part - mean
    return np.asarray(x / np.sqrt((part * part).mean(axis, keepdims=True) + eps))


def rebuild(graph: Graph, script: EditScript) -> tuple[Graph, dict[Value, Value]]:
    """The graph after an edit script, and where every value went. Raises ValueError where sizes clash."""
    b = Net()
    new: dict[Value, Value] = {}
    for v in graph.inputs:
        new[v] = Input(v.name, v.shape, v.dtype)
        b.graph.inputs.append(new[v])  # type: ignore[arg-type]
    recipes = {e.weight: e.expansion for e in script.weights}
    for w in graph.weights:
        recipe = recipes.get(w)
        data = w.array() if recipe is None else recipe.apply(w.array())
        new[w] = Weight(w.name, data.shape, w.dtype, read=lambda d=data: d, role=w.role)
        b.graph.weights.append(new[w])  # type: ignore[arg-type]
    literals = {e.slot.native: e.data for e in script.literals}
    for v in graph.literals:
        data = np.asarray(literals.get(v, v.data))
        new[v] = b.literal(data.astype(v.data.dtype), v.dtype)
    sizes: dict[Op, list[Any]] = {}
    for edit in script.sizes:
        sizes.setdefault(edit.slot.native, []).append(edit)
    statistics = {e.op: e for e in script.statistics}
    for op in graph.ops:
        attrs = _edited(op, sizes.get(op, []))
        if "entries" in attrs:  # repeats: the counts are stated, the other sizes follow the operand
            operand = new[op.inputs[0]].shape
            attrs["shape"] = tuple(
                n if a in attrs["entries"] else operand[a] for a, n in enumerate(attrs["shape"])
            )
        if op in statistics:
            attrs = {**attrs, "old": statistics[op].old, "axis": statistics[op].axis}
        made = b.emit(op.kind, [new[v] for v in op.inputs], attrs)
        new.update(zip(op.outputs, made.outputs, strict=True))
    b.graph.outputs = [(name, new[v]) for name, v in graph.outputs]
    return b.graph, new


def _edited(op: Op, edits: Sequence[Any]) -> dict[str, Any]:
    attrs = dict(op.attrs)
    for e in edits:
        if e.slot.role == "shape":
            shape = list(attrs["shape"])
            axis = op.attrs["entries"][e.index] if "entries" in op.attrs else e.index
            assert shape[axis] == e.old, f"{op!r}: {e}"
            shape[axis] = e.new
            attrs["shape"] = tuple(shape)
        elif op.kind == "range":
            attrs["length"] = round((e.new - attrs["start"]) / attrs["step"])
        else:
            assert attrs[e.slot.role] == e.old, f"{op!r}: {e}"
            attrs[e.slot.role] = e.new
    return attrs
