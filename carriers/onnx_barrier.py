"""What the vocabulary cannot express: shapes of barriers, constants through the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from meristem.carriers.onnx_builder import FoldingBuilder
from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_values import dtype_name, dtype_of, size_of
from meristem.rewrite.graph import Literal, Shape, Value

# Results of these differ from run to run, so they are never constants.
_RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
    }
)


def reference_fold(
    node: ir.Node, operands: Sequence[Any], carrier: OnnxCarrier, b: FoldingBuilder
) -> list[Literal] | None:
    """Evaluate a node without lowering whose operands are all constants; None where that fails."""
    if node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
        return None
    given = [v for v in operands if v is not None]
    try:
        model = _single(node, operands, carrier)
        feeds = {f"in{i}": _native(v) for i, v in enumerate(operands) if v is not None}
        arrays = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference raises anything; a barrier is then the safe answer
        return None
    out = [
        b.literal(a, dtype_name(v.dtype) if v.dtype is not None else np.asarray(a).dtype.name)
        for a, v in zip(arrays, [v for v in node.outputs if v.name], strict=True)
    ]
    for literal in out if any(v in b.moving for v in given) else ():
        b.moves(literal)
    return out


def result_shapes(
    node: ir.Node, operands: Sequence[Any], carrier: OnnxCarrier, hints: Mapping[str, int]
) -> list[Shape]:
    """Shapes of a barrier's results: as recorded, else as ONNX infers them, else the operand's."""
    recorded = [_recorded(v, hints) for v in node.outputs]
    if all(s is not None for s in recorded):
        return [s for s in recorded if s is not None]
    inferred = _inferred(node, operands, carrier)
    first = next((v.shape for v in operands if isinstance(v, Value)), ())
    return [s or inferred.get(i) or first for i, s in enumerate(recorded)]


def _recorded(value: ir.Value, hints: Mapping[str, int]) -> Shape | None:
    if value.shape is None:
        return None
    sizes = [size_of(n, hints) for n in value.shape]
    return None if any(n is None for n in sizes) else tuple(int(n or 0) for n in sizes)


def _inferred(node: ir.Node, operands: Sequence[Any], carrier: OnnxCarrier) -> dict[int, Shape]:
    try:
        model = onnx.shape_inference.infer_shapes(
            _single(node, operands, carrier, constants=True), data_prop=True
        )
    except Exception:  # a custom operator, or subgraphs that need their surroundings
        return {}
    out: dict[int, Shape] = {}
    names = [f"out{i}" for i in range(len(node.outputs))]
    for info in model.graph.output:
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            out[names.index(info.name)] = tuple(d.dim_value for d in dims)
    return out


def _single(
    node: ir.Node, operands: Sequence[Any], carrier: OnnxCarrier, *, constants: bool = False
) -> onnx.ModelProto:
    """A model of one node with concrete input shapes."""
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    inputs, initialisers = [], []
    for i, v in enumerate(operands):
        name = "" if v is None else f"in{i}"
        proto.input.append(name)
        if not isinstance(v, Value):
            if v is not None:
                raise ValueError("a sequence")
            continue
        if constants and isinstance(v, Literal):
            initialisers.append(onnx.numpy_helper.from_array(_native(v), name))
        else:
            kind = int(dtype_of(v.dtype))
            inputs.append(onnx.helper.make_tensor_value_info(name, kind, v.shape))
    outputs = []
    for i, v in enumerate(node.outputs):
        proto.output.append(f"out{i}" if v.name else "")
        if v.name:
            outputs.append(onnx.ValueInfoProto(name=f"out{i}"))
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs, initialisers)
    imports = [onnx.helper.make_opsetid(d, n) for d, n in carrier.model.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=imports)


def _native(v: Literal) -> Any:
    if v.dtype == "string":
        return v.data
    return np.asarray(v.data).astype(dtype_of(v.dtype).numpy())
