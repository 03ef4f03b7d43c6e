"""Running a view in float64 with numpy: the oracle of level 1 where no carrier can be retyped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from meristem.rewrite.graph import Array, Graph, Literal, Op, Value, Weight
from meristem.rewrite.registry import semantics

Read = Callable[[Weight], Array]
# What a carrier computes itself, where an operator has no semantics here.
Native = Callable[[Op, Sequence[Array]], Sequence[Array]]


def run(
    graph: Graph,
    inputs: Mapping[str, Any],
    weights: Read | None = None,
    watch: Callable[[Value, Array], None] | None = None,
    native: Native | None = None,
) -> list[Array]:
    """The outputs of ``graph`` for ``inputs`` by name, every float in float64.

    ``weights`` gives a weight's values (default: as stored); ``watch`` sees every result once; ``native``
    computes what has no semantics (default: UnsupportedOperator is raised).
    Values are freed after their last use, and a weight is read when it is first needed.
    """
    return _Run(graph, inputs, weights or Weight.array, watch, native).outputs()


def evaluate(op: Op, arrays: Sequence[Array], native: Native | None = None) -> list[Array]:
    """The results of one operator, floats in float64."""
    own = native if op.kind == "opaque" else None
    results = own(op, arrays) if own is not None else semantics(op.kind).evaluate(op, *arrays)
    return [wide(v, array) for v, array in zip(op.outputs, results, strict=True)]


def wide(value: Value, data: Any) -> Array:
    """Values as the interpreter holds them: floats at float64, others as they are."""
    array = np.asarray(data)
    return np.asarray(array, np.float64) if value.is_float else array


class _Run:
    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Any],
        weights: Read,
        watch: Any,
        native: Native | None,
    ) -> None:
        self.graph, self.weights, self.watch, self.native = graph, weights, watch, native
        self.held: dict[Value, Array] = {}
        self.left: dict[Value, int] = {}
        for op in graph.ops:
            for v in op.inputs:
                self.left[v] = self.left.get(v, 0) + 1
        for _, v in graph.outputs:
            self.left[v] = self.left.get(v, 0) + 1
        for v in graph.inputs:
            if v.name not in inputs:
                raise KeyError(
                    f"no value for the input {v.name}; the graph takes "
                    f"{[i.name for i in graph.inputs]}"
                )
            array = wide(v, inputs[v.name])
            if array.shape != v.shape:
                raise ValueError(
                    f"input {v.name} has shape {array.shape}, the view was built for "
                    f"{v.shape}; build it again with these sizes as hints"
                )
            self.held[v] = array

    def outputs(self) -> list[Array]:
        for op in self.graph.ops:
            self._step(op)
        return [self._take(v) for _, v in self.graph.outputs]

    def _step(self, op: Op) -> None:
        arrays = [self._take(v) for v in op.inputs]
        try:
            results = evaluate(op, arrays, self.native)
        except IndexError as error:  # numpy's words do not say in which table
            tables = [n for v in op.inputs if isinstance(v, Weight) for n in v.names[:1]]
            of = f" of {', '.join(tables)}" if tables else ""
            raise IndexError(f"{op.where}{of}: {error}") from error
        for v, array in zip(op.outputs, results, strict=True):
            if array.shape != v.shape:
                raise AssertionError(f"{op.where}: evaluates to shape {array.shape}, not {v.shape}")
            if self.watch is not None:
                self.watch(v, array)
            if self.left.get(v):
                self.held[v] = array

    def _take(self, v: Value) -> Array:
        """A value, forgotten with its last use."""
        got = self.held.get(v)
        if got is None:
            if isinstance(v, Weight):
                got = wide(v, self.weights(v))
            elif isinstance(v, Literal):
                got = wide(v, v.data)
            else:
                raise AssertionError(f"{v!r} is used before it is computed")
        self.left[v] -= 1
        if self.left[v]:
            self.held[v] = got
        else:
            self.held.pop(v, None)
        return got
