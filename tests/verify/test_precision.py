"""Copies of files in other float types: right by the checker, right by two runtimes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from meristem.verify.precision import copy_onnx, retyped_array

F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def saved(path, nodes, inputs, outputs, weights=()):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info(*v) for v in inputs], [info(*v) for v in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in dict(weights).items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, path)
    return path


def both(path, dtype, feed):
    """The file and its copy in ONNX Runtime."""
    copy = copy_onnx(path, path.with_name(f"copy.{dtype}.onnx"), dtype)
    sessions = (
        onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"])
        for p in (path, copy)
    )
    return onnx.load(copy), [s.run(None, feed)[0] for s in sessions]


def test_numbers_beyond_the_type():
    given = np.array([1e30, -3.4e38, np.inf, 2.0, np.nan], np.float32)
    assert np.array_equal(
        retyped_array(given, "float16"),
        np.array([65504, -65504, np.inf, 2, np.nan], np.float16), equal_nan=True,
    )  # fmt: skip
    assert np.isfinite(retyped_array(given[:2], "bfloat16").astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_integers_masks_and_what_stays_in_float32(tmp_path, dtype):
    """A table, a mask of finfo.min, a Range (which has no narrow type) and a Resize (whose scales have
    none) in one file."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Where", ["keep", "e", "low"], ["m"]),
        helper.make_node("Softmax", ["m"], ["s"]),
        helper.make_node("Range", ["zero", "five", "one"], ["r"]),
        helper.make_node("Add", ["s", "r"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["y"], mode="nearest"),
    ]
    weights = {
        "table": np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32),
        "low": np.float32(np.finfo(np.float32).min),
        "zero": np.float32(0), "five": np.float32(5), "one": np.float32(1),
        "scales": np.array([1, 2], np.float32),
    }  # fmt: skip
    path = saved(
        tmp_path / "m.onnx", nodes, [("ids", INT, ["n"]), ("keep", B, ["n", 5])],
        [("y", F, ["n", 10])], weights,
    )  # fmt: skip
    feed = {"ids": np.array([1, 6, 3]), "keep": np.arange(15).reshape(3, 5) % 4 > 0}
    copy = copy_onnx(path, tmp_path / "c.onnx", dtype)
    onnx.checker.check_model(str(copy), full_check=True)
    stored = onnx.load(copy)
    types = {t.name: t.data_type for t in stored.graph.initializer}
    assert types["scales"] == types["zero"] == F
    assert types["table"] == types["low"] == getattr(TensorProto, dtype.upper())
    assert stored.graph.output[0].type.tensor_type.elem_type == F
    want = ReferenceEvaluator(str(path)).run(None, feed)[0]
    got = ReferenceEvaluator(str(copy)).run(None, feed)[0]
    eps = 2.0**-10 if dtype == "float16" else 2.0**-7
    assert 0 < np.abs(want - got).max() < 4 * eps * np.abs(want).max()


def test_branches_and_casts(tmp_path):
    info = helper.make_tensor_value_info
    branch = {
        name: helper.make_graph(
            [helper.make_node(op, ["x", "w"], [f"{name}_y"])], name, [],
            [info(f"{name}_y", F, ["n", 3])],
        )
        for name, op in (("yes", "Mul"), ("no", "Add"))
    }  # fmt: skip
    nodes = [
        helper.make_node(
            "If", ["flag"], ["b"], then_branch=branch["yes"], else_branch=branch["no"]
        ),
        helper.make_node("Cast", ["count"], ["c"], to=F),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    path = saved(
        tmp_path / "m.onnx", nodes, [("x", F, ["n", 3]), ("flag", B, []), ("count", INT, [])],
        [("y", F, ["n", 3])], {"w": np.array([0.1, 0.2, 0.3], np.float32)},
    )  # fmt: skip
    for flag in (True, False):
        feed = {"x": np.ones((2, 3), np.float32), "flag": np.array(flag), "count": np.array(3)}
        _, (want, got) = both(path, "float16", feed)
        assert 0 < np.abs(want - got).max() < 4e-3


def test_operators_of_the_runtime_and_of_nobody(tmp_path):
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    w = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    path = saved(tmp_path / "m.onnx", nodes, [("x", F, ["n", 3])], [("y", F, ["n", 2])], {"w": w})
    model, (want, got) = both(path, "float16", {"x": w.T.copy()})
    assert np.abs(want - got).max() < 1e-2
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}


def test_weights_go_to_a_file_beside_it(tmp_path):
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = saved(
        tmp_path / "m.onnx", [node], [("x", F, ["n", 64])], [("y", F, ["n", 64])], {"w": w}
    )
    copy = copy_onnx(path, tmp_path / "c.onnx", "bfloat16")
    assert (tmp_path / "c.onnx.data").stat().st_size >= 64 * 64 * 2
    back = copy_onnx(copy, tmp_path / "back.onnx", "float32")
    (stored,) = onnx.load(back).graph.initializer
    assert np.abs(numpy_helper.to_array(stored) - w).max() <= 2.0**-8 * np.abs(w).max()
