"""What exporters do to weights, and that the view undoes it without touching the file."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import CarrierError
from tests.carriers.onnx_models import (
    assert_lowered,
    assert_same,
    model,
    node,
    run_ort,
    run_view,
    tensor,
)

X = {"x": tensor(2, 3, 4)}
IDS = {"i": np.array([[0, 2, 1], [3, 3, 0]])}


def weights(source) -> dict[str, tuple[int, ...]]:
    return {w.name: w.shape for w in view_onnx(load_onnx(source)).weights}


def test_nodes_may_come_in_any_order() -> None:
    nodes = [node("MatMul", "x a", "h"), node("Relu", "h", "u"), node("MatMul", "u b", "y")]
    stored = {"a": tensor(4, 6), "b": tensor(6, 4)}
    sorted_, turned = (load_onnx(model(n, X, stored)) for n in (nodes, nodes[::-1]))
    assert [n.op_type for n in turned.graph] == [n.op_type for n in sorted_.graph]
    assert "each follows what it reads" in turned.normalisations[0]
    assert not sorted_.normalisations
    loop = [node("Add", "x v", "h"), node("Relu", "h", "v"), node("Relu", "h", "y")]
    with pytest.raises(CarrierError, match="form a cycle"):
        load_onnx(model(loop, X, {}))


def test_small_and_constant_tensors_count_once_for_each_use() -> None:
    shared = {"g": tensor(4), "z": np.zeros((4, 4), np.float32), "w": tensor(4, 4)}
    proto = model(
        [
            node("Mul", "x g", "a"), node("MatMul", "a w", "b"), node("MatMul", "b z", "c"),
            node("Add", "c a", "d"), node("Mul", "d g", "e"), node("MatMul", "e w", "f"),
            node("Add", "f g", "h"), node("MatMul", "h z", "y"),
        ],
        X, shared,
    )  # fmt: skip
    carrier = load_onnx(proto)
    graph = view_onnx(carrier)
    assert {w.name for w in graph.weights} == {"g", "g#2", "g#3", "w", "z", "z#2"}
    assert any("2 small or constant tensors" in n for n in carrier.normalisations)
    assert_same(run_view(carrier, X), run_ort(proto, X))


def test_a_merged_gain_does_not_tie_axes() -> None:
    """Two layers of equal width share a bias of zeros; their widths are two dimensions."""
    nodes = [
        node("MatMul", "x u", "a"), node("Add", "a b", "c"), node("Relu", "c", "d"),
        node("MatMul", "d v", "e"), node("MatMul", "e w", "f"), node("Add", "f b", "g"),
        node("Relu", "g", "h"), node("MatMul", "h t", "y"),
    ]  # fmt: skip
    constants = {
        "u": tensor(4, 6), "v": tensor(6, 4), "w": tensor(4, 6, seed=3), "t": tensor(6, 4, seed=4),
        "b": np.zeros(6, np.float32),
    }  # fmt: skip
    graph = view_onnx(load_onnx(model(nodes, X, constants)))
    eq = Equations(graph).solve()
    by_name = {w.name: eq.of(w) for w in graph.weights}
    assert by_name["u"][1] is not by_name["w"][1]


@pytest.mark.parametrize("transposed", [True, False])
def test_a_table_that_is_stored_twice_is_one_weight(transposed: bool) -> None:
    table = tensor(7, 4)
    head = table.T if transposed else table
    nodes = [node("Gather", "emb i", "e")]
    nodes += [node("Transpose", "head", "t", perm=[1, 0])] if not transposed else []
    nodes += [node("MatMul", "e head" if transposed else "e t", "y")]
    proto = model(nodes, IDS, {"emb": table, "head": head.copy()})
    carrier = load_onnx(proto)
    (w,) = view_onnx(carrier).weights
    assert (w.name, w.aliases) == ("emb", ("head",))
    assert any("head repeats emb" in n for n in carrier.normalisations)
    assert_same(run_view(carrier, IDS), run_ort(proto, IDS))


def test_different_and_constant_tables_stay_apart() -> None:
    nodes = [node("Gather", "emb i", "e"), node("MatMul", "e head", "y")]
    other = tensor(7, 4).T.copy()
    other[0, 0] += 1
    assert len(weights(model(nodes, IDS, {"emb": tensor(7, 4), "head": other}))) == 2
    zeros = {"emb": np.zeros((7, 4), np.float32), "head": np.zeros((4, 7), np.float32)}
    assert len(weights(model(nodes, IDS, zeros))) == 2


def test_constant_nodes_are_weights_and_literals() -> None:
    table = numpy_helper.from_array(tensor(4, 6), "t")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=table),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["s"], value_ints=[2, 18]),
        node("MatMul", "x w", "a"), node("Mul", "a half", "b"), node("Reshape", "b s", "y"),
    ]  # fmt: skip
    proto = model(nodes, X)
    assert weights(proto) == {"w": (4, 6)}
    assert_lowered(proto, X)


def test_functions_are_inlined() -> None:
    body = [node("Mul", "a a", "b"), node("Add", "b a", "c")]
    function = helper.make_function(
        "local", "Square", ["a"], ["c"], body, [helper.make_opsetid("", 20)]
    )
    calls = [node("Square", "x", "m", "local"), node("Square", "m", "y", "local")]
    proto = model(calls, X, functions=[function])
    carrier = load_onnx(proto)
    assert len(view_onnx(carrier).ops) == 4
    assert "1 local functions inlined (2 calls)" in carrier.normalisations
    x = X["x"]
    assert_same(run_view(carrier, X), [(x * x + x) ** 2 + (x * x + x)])


def test_an_if_with_a_known_condition_is_its_branch() -> None:
    def branch(op: str, name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, 1, (2, 3, 4))
        return helper.make_graph([node(op, "x", name)], name, [], [out])

    nodes = [
        node("Shape", "x", "s"), node("Gather", "s i", "n"), node("Equal", "n k", "c"),
        node("If", "c", "y", then_branch=branch("Relu", "p"), else_branch=branch("Neg", "q")),
    ]  # fmt: skip
    for k, kind in ((3, "relu"), (4, "neg")):
        proto = model(nodes, X, {"i": np.array(1), "k": np.array(k)})
        assert [op.kind for op in view_onnx(load_onnx(proto)).ops] == [kind]
        assert_lowered(proto, X)


def test_an_if_that_depends_on_data_is_a_barrier_on_what_it_captures() -> None:
    out = helper.make_tensor_value_info("p", 1, (2, 3, 4))
    branch = helper.make_graph([node("Mul", "x w", "p")], "b", [], [out])
    nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
    given = {**X, "c": np.array(True)}
    graph = view_onnx(load_onnx(model(nodes, given, {"w": tensor(4)})))
    (op,) = graph.ops
    assert op.kind == "opaque"
    assert {v.name for v in op.inputs} >= {"c", "x"}


def test_layer_norm_spelled_out_is_one_norm() -> None:
    nodes = [
        node("ReduceMean", "x a", "m"), node("Sub", "x m", "d"), node("Pow", "d p", "q"),
        node("ReduceMean", "q a", "v"), node("Add", "v e", "t"), node("Sqrt", "t", "r"),
        node("Div", "d r", "n"), node("Mul", "n g", "y"),
    ]  # fmt: skip
    constants = {"a": np.array([-1]), "p": np.float32(2), "e": np.float32(1e-3), "g": tensor(4)}
    graph = view_onnx(load_onnx(model(nodes, X, constants)))
    assert [op.kind for op in graph.ops] == ["norm", "mul"]
    assert graph.ops[0].attrs["center"]


def test_a_roll_spelled_out_is_one_move() -> None:
    low = {"s": np.array([1]), "e": np.array([9]), "o": np.array([0]), "a": np.array([1])}
    nodes = [
        node("Slice", "x s e a", "p"),
        node("Slice", "x o s a", "q"),
        node("Concat", "p q", "y", axis=1),
    ]
    proto = model(nodes, X, low)
    (op,) = view_onnx(load_onnx(proto)).ops
    assert (op.kind, op.attrs["how"], op.attrs["shifts"]) == ("rearrange", "roll", (-1,))
    assert_lowered(proto, X)


def test_roles_of_weights() -> None:
    """torch's own record decides; without one, a table of zeros and hidden scores is a mask."""
    hidden = np.where(np.tri(3, dtype=bool), 0, -3e38).astype(np.float32)
    proto = model(
        [node("MatMul", "x z", "a"), node("Add", "a mask", "b"), node("Mul", "b inv", "c"),
         node("Add", "c folded", "y")],
        {"x": tensor(2, 3, 4), "z": tensor(2, 4, 3)},
        {"mask": hidden, "inv": tensor(3), "folded": tensor(3, seed=4)},
    )  # fmt: skip
    for weight in proto.graph.initializer:
        if weight.name == "inv":
            weight.metadata_props.add(
                key="pkg.torch.export.graph_signature.InputSpec.kind", value="BUFFER"
            )
        if weight.name == "folded":
            weight.metadata_props.add(
                key="pkg.onnxscript.optimizer.folded_from", value="['arange', 'cos_1', 'rope.inv']"
            )
    roles = {w.name: w.role for w in view_onnx(load_onnx(proto)).weights}
    assert roles == {"mask": "constant", "inv": "buffer", "folded": "constant"}


def test_places_come_from_scopes_names_or_weights() -> None:
    proto = model(
        [node("Relu", "x", "a", name="node_1"), node("MatMul", "a net.3.fc.weight", "b"),
         node("Neg", "b", "c", name="/encoder/layer.0/Neg"), node("Abs", "c", "y")],
        X, {"net.3.fc.weight": tensor(4, 4)},
    )  # fmt: skip
    scopes = "['', 'net', 'net.3', 'relu_1']"
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    places = [op.place for op in view_onnx(load_onnx(proto)).ops]
    assert places == ["net.3", "net.3.fc", "encoder.layer.0", "encoder.layer.0"]


def test_as_strided_is_a_reshape() -> None:
    table = {"s": np.array([-1]), "i": np.arange(24).reshape(2, 12)}
    nodes = [node("Reshape", "x s", "f"), node("Gather", "f i", "y")]
    graph = view_onnx(load_onnx(model(nodes, X, table)))
    assert {op.kind for op in graph.ops} == {"reshape"}


@pytest.mark.parametrize("sizes", [(3, 5), (5, 11)])
def test_dynamic_axes_are_bound_to_any_hints(sizes: tuple[int, int]) -> None:
    nodes = [
        node("Shape", "x", "s", start=0, end=2), node("Concat", "s h", "v", axis=0),
        node("MatMul", "x w", "a"), node("Reshape", "a v", "b"),
        node("Transpose", "b", "c", perm=[0, 2, 1, 3]), node("Shape", "x", "l", start=1, end=2),
        node("Squeeze", "l", "n"), node("Range", "o n t", "r"), node("Cast", "r", "f", to=1),
        node("Unsqueeze", "f k", "g"), node("Add", "c g", "y"),
    ]  # fmt: skip
    constants = {
        "w": tensor(4, 6), "h": np.array([2, 3]), "o": np.array(0), "t": np.array(1), "k": np.array([1]),
    }  # fmt: skip
    proto = model(nodes, {"x": (np.float32, ["batch", "length", 4])}, constants)
    carrier = load_onnx(proto)
    hints = carrier.hints()
    assert hints["batch"] != hints["length"]
    assert not any(op.kind == "opaque" for op in view_onnx(carrier).ops)
    feeds = {"x": tensor(*sizes, 4)}
    assert_same(run_view(carrier, feeds), run_ort(proto, feeds))
