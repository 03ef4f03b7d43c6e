"""Every kind that ONNX has against ONNX Runtime: the view's shapes and values."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite import interpret
from meristem.rewrite.registry import kinds
from tests.rules.onnx_table import NOT_IN_ONNX, ONNX

OPSET = 23
# What onnxruntime's CPU provider does not implement is computed by ONNX's own reference.
REFERENCE = {"BitwiseAnd", "BitwiseOr", "BitwiseNot"}


def model(node):
    """A model of one node."""
    arrays = [np.asarray(a) for a in (*node.operands, *node.constants)]
    names = [f"v{i}" for i in range(len(arrays))]
    outputs = [f"y{i}" for i in range(node.outputs)]
    count = len(node.operands)
    graph = helper.make_graph(
        [helper.make_node(node.op, names, outputs, domain=node.domain, **node.attrs)],
        "row",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names[:count], arrays[:count], strict=True)
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(a, n) for n, a in zip(names[count:], arrays[count:], strict=True)],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    if not node.domain:
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    else:
        kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
        info = helper.make_tensor_value_info(outputs[0], kind, arrays[0].shape)
        proto.graph.output[0].CopyFrom(info)
    return proto, dict(zip(names[:count], arrays[:count], strict=True))


def expected(proto, inputs, op):
    if op in REFERENCE:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(proto).run(None, inputs)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


def test_every_kind_is_in_the_table_or_not_in_onnx():
    assert set(ONNX) | NOT_IN_ONNX == set(kinds())
    assert not set(ONNX) & NOT_IN_ONNX


@pytest.mark.parametrize(
    ("kind", "node"), [pytest.param(k, n, id=f"{k}-{n.op}") for k in ONNX for n in ONNX[k]]
)
def test_row(kind, node):
    proto, inputs = model(node)
    graph = view_onnx(load_onnx(proto))
    assert kind in {op.kind for op in graph.ops}, [op.kind for op in graph.ops]
    got = interpret.run(graph, inputs)
    want = expected(proto, inputs, node.op)
    assert len(got) == len(want)
    for new, old in zip(got, want, strict=True):
        assert new.shape == old.shape
        np.testing.assert_allclose(
            new.astype(np.float64), old.astype(np.float64), rtol=2e-5, atol=2e-6
        )
