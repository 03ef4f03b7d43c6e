"""Merged initialisers: exporters store equal tensors once, and that must not tie their axes."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.axes import find
from meristem.rewrite.equations import Equations
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script


def weight(name, *shape, data=None):
    rng = np.random.default_rng(len(name) + sum(shape))
    array = rng.standard_normal(shape) if data is None else data
    return numpy_helper.from_array(np.asarray(array, np.float32), name)


def layers(*steps, weights):
    """x[2, 4] through (operator, weight) steps."""
    nodes, at = [], "x"
    for i, (op, name) in enumerate(steps):
        nodes.append(helper.make_node(op, [at, name] if name else [at], [f"h{i}"]))
        at = f"h{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, [2, 3])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    view = view_onnx(load_onnx(model))
    return view, Equations(view).solve()


def merged():
    """Two unrelated widths of six share one bias of zeros."""
    steps = [
        ("MatMul", "a"), ("Add", "zeros"), ("Relu", ""), ("MatMul", "b"), ("Add", "zeros"),
        ("Relu", ""), ("MatMul", "c"),
    ]  # fmt: skip
    zeros = weight("zeros", data=np.zeros(6))
    weights = [weight("a", 4, 6), weight("b", 6, 6), weight("c", 6, 3), zeros]
    return layers(*steps, weights=weights)


def test_a_bias_of_zeros_that_two_layers_share_ties_nothing():
    view, eq = merged()
    w = {v.name: v for v in view.weights}
    first, second = eq.of(w["a"])[1], eq.of(w["b"])[1]
    assert find(first) is not find(second)
    solution = solve(eq, {first: 8})
    grown = {e.weight.name: e.expansion.shape for e in edit_script(solution).weights}
    assert grown["a"] == (4, 8)
    assert grown["b"] == (8, 6)
    assert "c" not in grown


def test_a_matrix_that_two_layers_share_is_one_weight():
    steps = [
        ("MatMul", "a"),
        ("Relu", ""),
        ("MatMul", "w"),
        ("Relu", ""),
        ("MatMul", "w"),
        ("MatMul", "c"),
    ]
    view, eq = layers(*steps, weights=[weight("a", 4, 6), weight("w", 6, 6), weight("c", 6, 3)])
    tied = [v for v in view.weights if v.name.startswith("w")]
    assert len({find(t) for v in tied for t in eq.of(v)}) == 1
