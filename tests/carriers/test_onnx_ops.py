"""Every lowering of an ONNX operator computes what ONNX Runtime does."""

import pytest

from meristem.carriers.onnx_ops import supported
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.equations import Equations
from tests.carriers.onnx_cases import CASES, Case
from tests.carriers.onnx_models import assert_lowered, model, node, tensor


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_view_computes_what_the_runtime_does(case: Case) -> None:
    proto = model(case.nodes, case.inputs, case.weights, case.outputs, case.opset)
    assert_lowered(proto, case.inputs, case.tolerance)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_axes_solve_without_conflict(case: Case) -> None:
    proto = model(case.nodes, case.inputs, case.weights, case.outputs, case.opset)
    assert not Equations(view_onnx(load_onnx(proto))).solve().conflicts


def test_every_lowering_has_a_case() -> None:
    met = {n.op_type for case in CASES for n in case.nodes}
    assert not {op for _, op in supported()} - met


def test_an_unknown_operator_is_a_barrier() -> None:
    proto = model(
        [node("Relu", "x", "a"), node("Mystery", "a", "b", "com.microsoft"), node("Neg", "b", "y")],
        {"x": tensor(2, 3)},
    )
    graph = view_onnx(load_onnx(proto))
    assert [op.kind for op in graph.ops] == ["relu", "opaque", "neg"]
    assert graph.ops[-1].output.shape == (2, 3)  # unknown: taken to be the operand's


def test_a_declined_use_is_a_barrier_with_its_recorded_shape() -> None:
    proto = model(
        [node("NonZero", "x", "n"), node("Cast", "n", "f", to=1), node("ReduceMax", "f", "y")],
        {"x": tensor(2, 3)},
    )
    kinds = [op.kind for op in view_onnx(load_onnx(proto)).ops]
    assert kinds[0] == "opaque"
