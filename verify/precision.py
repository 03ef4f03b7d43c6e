"""A copy of an ONNX file that computes in another float type: every weight, constant and value of it.

The schemas of the operators say what each of them takes. Where an operator (or one input of it, the
scales of a Resize) takes no such type, it stays in float32 between two casts, as an author would write
it. Inputs and outputs keep the types that the file declares, so that any caller can hand its numbers
over: a cast after an input and one before an output. Integers and booleans are never touched. Numbers
beyond the range of the type become its largest ones, as ``finfo(dtype).min`` does in a mask that is
written in that type; infinities stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
# The largest finite number of each.
_LARGEST = {"float32": 3.4028234663852886e38, "float16": 65504.0, "bfloat16": 3.3895313892515355e38}
_WORDS = {
    ir.DataType.FLOAT: "tensor(float)",
    ir.DataType.FLOAT16: "tensor(float16)",
    ir.DataType.BFLOAT16: "tensor(bfloat16)",
}
# Integer attributes that hold the type of a result, whatever the operator.
_TYPES = ("to", "dtype", "output_datatype")


def retyped_array(array: Array, dtype: str) -> Array:
    """The numbers in ``dtype``; those that are too large become the largest ones."""
    wide = np.asarray(array)
    top = _LARGEST[dtype]
    with np.errstate(over="ignore"):
        clipped = np.where(np.isfinite(wide), np.clip(wide, -top, top), wide)
        return clipped.astype(DTYPES[dtype].numpy())


def copy_onnx(source: Path, target: Path, dtype: str) -> Path:
    """Write ``source`` in ``dtype`` ("float32", "float16", "bfloat16") to ``target``; returns it.

    Weights stream one by one into a file beside it. Raises CarrierError where a type is not known.
    """
    model = ir.load(source)
    if model.functions:
        InlinePass()(model)
    ShapeInferencePass(data_prop=False)(model)
    _Copy(model, dtype).run()
    ir.save(model, target, external_data=target.name + ".data")
    return target


class _Copy:
    """One conversion, in place."""

    def __init__(self, model: ir.Model, dtype: str) -> None:
        self.model, self.dtype, self.to = model, dtype, DTYPES[dtype]
        self.floats = set(_WORDS) - {self.to}
        self.was: dict[ir.Value, ir.DataType] = {}  # values that compute in ``to`` now
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        graph = self.model.graph
        declared = {v: v.dtype for v in graph.outputs}
        self.convert(graph)
        self.clean()
        for i, value in enumerate(graph.outputs):
            if value in self.was or value.dtype is not declared[value]:
                graph.outputs[i] = self.output(value, declared[value])

    def clean(self) -> None:
        """Weights that nothing reads in their old type any more go; the new ones take their names."""
        for (old, _), new in self.made.items():
            graph = old.graph
            if graph is None or not old.is_initializer() or old.uses() or old.is_graph_output():
                continue
            if not old.is_graph_input():
                name = old.name
                del graph.initializers[name]
                graph.initializers.pop(new.name)
                new.name = name
                graph.initializers[name] = new

    def convert(self, graph: Any) -> None:
        """Every node of a graph, and of the graphs inside."""
        for node in list(graph):
            _Node(self, node).convert()

    def lower(self, value: ir.Value) -> None:
        """This value is made in the new type."""
        if value.dtype in self.floats:
            self.was[value] = value.dtype
            value.dtype = self.to

    def want(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """``value`` in ``dtype``: itself, a retyped weight, or a cast."""
        if value.dtype is dtype:
            return value
        key = value, dtype
        if key not in self.made:
            weight = value.const_value if value.is_initializer() else None
            if weight is not None:
                self.made[key] = self.weight(value, weight, dtype)
            else:
                self.made[key] = _cast(value, dtype, before)
        return self.made[key]

    def weight(self, value: ir.Value, weight: Any, dtype: ir.DataType) -> ir.Value:
        """A stored tensor in another type, made when it is written."""
        words = next(w for w, d in DTYPES.items() if d is dtype)
        name = value.name if value.name is None else f"{value.name}.{words}"

        def make() -> ir.TensorProtocol:
            return ir.tensor(retyped_array(weight.numpy(), words), dtype, name=name)

        lazy = ir.LazyTensor(make, dtype=dtype, shape=weight.shape, name=name)
        new = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=lazy)
        graph = value.graph
        assert graph is not None
        graph.initializers.add(new)
        return new

    def output(self, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        """A cast that bears the output's name."""
        assert dtype is not None
        name = value.name
        value.name = f"{name}.{self.dtype}"
        node = ir.node("Cast", [value], {"to": dtype.value})
        out = node.outputs[0]
        out.name, out.dtype, out.shape = name, dtype, value.shape
        self.model.graph.append(node)
        return out


class _Node:
    """One node: which of its inputs and outputs may change their type."""

    def __init__(self, copy: _Copy, node: ir.Node) -> None:
        self.copy, self.node = copy, node
        self.schema = _schema(node, copy.model)

    def convert(self) -> None:
        copy, node = self.copy, self.node
        allowed = self.allowed()
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype is None:
                continue
            was = copy.was.get(value, value.dtype)
            if was in copy.floats:
                wanted = copy.to if allowed(i, False) else was
                node.replace_input_with(i, copy.want(value, wanted, node))
        for inner in _subgraphs(node):
            self.inner(inner, allowed(0, True))
        for i, value in enumerate(node.outputs):
            if value.dtype in copy.floats and allowed(i, True):
                copy.lower(value)
                self.attributes()

    def inner(self, graph: Any, lowers: bool) -> None:
        """A graph inside; ``lowers`` says whether what goes in and out of it changes its type."""
        copy = self.copy
        for value in graph.inputs:
            if value.dtype in copy.floats and lowers:
                copy.lower(value)
        copy.convert(graph)
        for i, value in enumerate(graph.outputs):
            was = copy.was.get(value, value.dtype)
            wanted = copy.to if lowers else was
            if was in copy.floats and value.dtype is not wanted:
                last = ir.node("Cast", [value], {"to": wanted.value})
                last.outputs[0].dtype = wanted
                graph.append(last)
                graph.outputs[i] = last.outputs[0]

    def allowed(self) -> Any:
        """A function of (position, output) that says whether the new type may stand there."""
        if self.schema is None:
            return lambda i, output: False
        inputs, outputs, types = self.schema
        word = _WORDS[self.copy.to]

        def ask(i: int, output: bool) -> bool:
            rows = outputs if output else inputs
            if not rows:
                return False
            kind = rows[min(i, len(rows) - 1)]
            return word in types.get(kind, (kind,))

        return ask

    def attributes(self) -> None:
        """Types and constants that attributes hold."""
        attributes = self.node.attributes
        for name, a in list(attributes.items()):
            if a.type is ir.AttributeType.INT and name in _TYPES:
                if ir.DataType(a.as_int()) in self.copy.floats:
                    attributes[name] = ir.AttrInt64(name, self.copy.to.value)
            elif a.type is ir.AttributeType.TENSOR:
                if a.as_tensor().dtype in self.copy.floats:
                    attributes[name] = self.tensor(name, a.as_tensor().numpy())
            elif self.node.op_type == "Constant" and name in ("value_float", "value_floats"):
                del attributes[name]
                attributes["value"] = self.tensor("value", np.asarray(a.value, np.float32))

    def tensor(self, name: str, data: Array) -> ir.Attr:
        return ir.AttrTensor(name, ir.tensor(retyped_array(data, self.copy.dtype), self.copy.to))


def _cast(value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
    """A cast right after ``value`` is made, in its own graph."""
    node = ir.node("Cast", [value], {"to": dtype.value})
    out = node.outputs[0]
    out.name, out.dtype, out.shape = f"{value.name}.{dtype.name.lower()}", dtype, value.shape
    producer = value.producer()
    if producer is not None:
        assert producer.graph is not None
        producer.graph.insert_after(producer, node)
        return out
    graph = value.graph or before.graph
    if graph is None:
        raise CarrierError(f"the value {value.name} belongs to no graph", value=value.name)
    first = next(iter(graph))
    graph.insert_before(first, node)
    return out


def _subgraphs(node: ir.Node) -> Iterator[Any]:
    for a in node.attributes.values():
        if a.type is ir.AttributeType.GRAPH:
            yield a.as_graph()
        elif a.type is ir.AttributeType.GRAPHS:
            yield from a.as_graphs()


Signature = tuple[Sequence[str], Sequence[str], dict[str, tuple[str, ...]]]
"""Kinds of the inputs, of the outputs, and which types each kind may be."""


def _schema(node: ir.Node, model: ir.Model) -> Signature | None:
    """What an operator takes; None where nobody knows it."""
    version = node.version or model.opset_imports.get(node.domain, 1)
    try:
        found = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return _of_runtime().get((node.domain, node.op_type))
    types = {c.type_param_str: tuple(c.allowed_type_strs) for c in found.type_constraints}
    return [p.type_str for p in found.inputs], [p.type_str for p in found.outputs], types


@cache
def _of_runtime() -> dict[tuple[str, str], Signature]:
    """Operators that ONNX Runtime adds; nothing where it is not installed."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return {}
    out: dict[tuple[str, str], Signature] = {}
    for s in get_all_operator_schema():
        if s.domain not in ("", "ai.onnx"):
            types = {c.type_param_str: tuple(c.allowed_type_strs) for c in s.type_constraints}
            out[s.domain, s.name] = (
                [p.typeStr for p in s.inputs],
                [p.typeStr for p in s.outputs],
                types,
            )
    return out


__all__ = ["DTYPES", "copy_onnx", "retyped_array"]
