"""Small ONNX models made by hand, and running them in ONNX Runtime and through the view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from meristem.backends.onnx_file import apply_script
from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.axes import atoms_of
from meristem.rewrite.equations import Equations
from meristem.rewrite.interpret import run
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script

Arrays = dict[str, Any]


def tensor(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Any:
    """Random float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node by space-separated names; ``-`` is a missing input."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op, names, outputs.split(), domain=domain or None, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 20,
    functions: Sequence[onnx.FunctionProto] = (),
    **options: Any,
) -> onnx.ModelProto:
    """A model; ``inputs`` gives arrays (static shapes) or (dtype, dims with names)."""
    given = []
    for name, value in inputs.items():
        dtype, dims = (value.dtype, value.shape) if isinstance(value, np.ndarray) else value
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        given.append(helper.make_tensor_value_info(name, kind, dims))
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(list(nodes), "graph", given, results, constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10, **options)
    for function in functions:
        proto.functions.append(function)
        proto.opset_import.add(domain=function.domain, version=1)
    proto = onnx.shape_inference.infer_shapes(proto)
    inner = [v for v in proto.graph.value_info if v.name not in outputs]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(inner)
    return proto


def session(source: Any) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread without optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_ort(source: Any, feeds: Mapping[str, Any]) -> list[Any]:
    return list(session(source).run(None, dict(feeds)))


def run_view(carrier: OnnxCarrier, feeds: Mapping[str, Any]) -> list[Any]:
    """The view's own result, built for the sizes of the inputs."""
    hints: dict[str, int] = {}
    for name, places in carrier.dynamic().items():
        source, axis = places[0]
        hints[name] = feeds[source].shape[axis]
    return run(view_onnx(carrier, hints), feeds)


def grown(
    carrier: OnnxCarrier,
    sizes: Mapping[tuple[str, int], int],
    hints: Mapping[str, int] | None = None,
    **options: Any,
) -> OnnxCarrier:
    """The carrier with axes of weights, given as (name, axis), at new sizes."""
    graph = view_onnx(carrier, hints)
    eq = Equations(graph).solve()
    leaves = {w.name: w for w in (*graph.weights, *graph.inputs)}
    atoms = {}
    for (name, axis), size in sizes.items():
        (atom,) = [t for t in atoms_of(eq.of(leaves[name])[axis]) if t.size > 1]
        atoms[atom] = size
    return apply_script(carrier, edit_script(solve(eq, atoms, **options)), hints)


def assert_same(got: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-5) -> None:
    """Equal shapes, equal non-finite entries, and errors small against the largest value."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(b)
        scale = max(1e-6, float(np.max(np.abs(b[finite]), initial=0)))
        assert float(np.max(np.abs(a - b)[finite], initial=0)) <= tolerance * scale


def assert_lowered(
    proto: onnx.ModelProto, feeds: Mapping[str, Any], tolerance: float = 1e-5
) -> None:
    """The view computes what ONNX Runtime does, without barriers."""
    carrier = load_onnx(proto)
    barriers = [op.where for op in view_onnx(carrier).ops if op.kind == "opaque"]
    assert not barriers
    assert_same(run_view(carrier, feeds), run_ort(proto, feeds), tolerance)
