"""Growing ONNX models: sizes, literals, statistics, boundaries, weights, and growing again."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from meristem.backends.onnx_file import apply_script, save, state_dict
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.axes import atoms_of, find
from meristem.rewrite.edits import EditScript
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import OutputError
from tests.carriers.onnx_models import assert_same, grown, model, node, run_ort, run_view, tensor

X = {"x": tensor(2, 5, 4)}
HEADS, SIZE = 3, 2


def attention(*, dynamic: bool, opset: int = 20) -> onnx.ModelProto:
    """One attention and a residual sum, its sizes as exporters write them."""
    width = HEADS * SIZE
    weights = {
        "wq": tensor(4, width), "wk": tensor(4, width, seed=1), "wv": tensor(4, width, seed=2),
        "wo": tensor(width, 4, seed=3), "scale": np.float32(SIZE**-0.5),
        "h": np.array([HEADS]), "d": np.array([SIZE]), "all": np.array([-1]),
        "split": np.array([2, 5, HEADS, SIZE]), "join": np.array([2, 5, width]),
    }  # fmt: skip
    shapes = [
        node("Shape", "x", "b", start=0, end=1), node("Shape", "x", "t", start=1, end=2),
        node("Concat", "b t h d", "split", axis=0), node("Concat", "b t all", "join", axis=0),
    ]  # fmt: skip
    nodes = shapes if dynamic else []
    for name in ("q", "k", "v"):
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            node("MatMul", f"x w{name}", f"{name}0"), node("Reshape", f"{name}0 split", f"{name}1"),
            node("Transpose", f"{name}1", name, perm=perm),
        ]  # fmt: skip
    nodes += [
        node("Mul", "q scale", "qs"), node("MatMul", "qs k", "s"), node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "o0"), node("Transpose", "o0", "o1", perm=[0, 2, 1, 3]),
        node("Reshape", "o1 join", "o2"), node("MatMul", "o2 wo", "o3"), node("Add", "x o3", "y"),
    ]  # fmt: skip
    if dynamic:
        weights = {k: v for k, v in weights.items() if k not in ("split", "join")}
    given = (np.float32, ["batch", "length", 4]) if dynamic else X["x"]
    return model(nodes, {"x": given}, weights, opset=opset)


def check(carrier, folder: Path, feeds, expected, tolerance: float = 1e-5) -> onnx.ModelProto:
    """The saved file passes the checker and computes the same."""
    path = save(carrier, folder / "grown.onnx")
    assert_same(run_ort(path, feeds), expected, tolerance)
    return onnx.load(path)


@pytest.mark.parametrize("dynamic", [False, True])
def test_sizes_of_heads(tmp_path: Path, dynamic: bool) -> None:
    source = attention(dynamic=dynamic)
    carrier = load_onnx(source)
    eq = Equations(view_onnx(carrier)).solve()
    w = next(w for w in eq.graph.weights if w.name == "wq")
    heads, size = map(find, find(eq.of(w)[1]).parts)
    assert (heads.size, size.size) == (HEADS, SIZE)
    for atoms in ({heads: 5}, {size: 3}, {heads: 4, size: 5}):
        new = _grow(eq, carrier, atoms)
        proto = check(new, tmp_path, X, run_ort(source, X))
        count = sum(n.op_type == "Concat" for n in proto.graph.node)
        # The old vectors are gone, and one stands for all that grow alike: values have another size.
        assert count == (0 if not dynamic else 2 if size not in atoms else 3)
    if dynamic:
        other = {"x": tensor(3, 7, 4, seed=9)}
        assert_same(run_ort(save(new, tmp_path / "g.onnx"), other), run_ort(source, other))


def _grow(eq, carrier, atoms):
    from meristem.rewrite.planner import solve
    from meristem.rewrite.script import edit_script

    return apply_script(carrier, edit_script(solve(eq, atoms)))


def test_the_source_stays_as_it_is(tmp_path: Path) -> None:
    source = attention(dynamic=True)
    carrier = load_onnx(source)
    grown(carrier, {("wv", 0): 4})
    assert onnx.load(save(carrier, tmp_path / "s.onnx")).graph.node == source.graph.node


def test_an_empty_script_changes_nothing(tmp_path: Path) -> None:
    source = attention(dynamic=True)
    carrier = load_onnx(source)
    again = onnx.load(save(apply_script(carrier, EditScript()), tmp_path / "s.onnx"))
    same = onnx.load(save(carrier, tmp_path / "t.onnx"))
    assert again == same


def test_names_metadata_and_documentation_survive(tmp_path: Path) -> None:
    source = attention(dynamic=False)
    source.metadata_props.add(key="licence", value="free")
    source.graph.node[0].doc_string = "queries"
    source.graph.node[0].name = "first"
    source.graph.node[0].metadata_props.add(key="namespace", value="attn")
    carrier = load_onnx(source)
    eq = Equations(view_onnx(carrier)).solve()
    w = next(w for w in eq.graph.weights if w.name == "wv")
    proto = check(
        _grow(eq, carrier, {find(eq.of(w)[1]).parts[1]: 4}), tmp_path, X, run_ort(source, X)
    )
    assert proto.metadata_props == source.metadata_props
    assert proto.graph.node[0] == source.graph.node[0]
    assert [w.name for w in proto.graph.initializer][:4] == ["wq", "wk", "wv", "wo"]
    assert [v.name for v in proto.graph.output] == ["y"]
    sizes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info
    }
    assert sizes["v0"] == [2, 5, HEADS * 4]
    assert sizes["q0"] == [2, 5, HEADS * SIZE]


# -- single edits ----------------------------------------------------------------------------------


def two_layers(*middle: onnx.NodeProto, weights=None, opset: int = 20) -> onnx.ModelProto:
    """x -> hidden of 6 (named h) -> ``middle`` (h to m) -> 4."""
    nodes = [node("MatMul", "x a", "h"), *middle, node("MatMul", "m b", "y")]
    all_weights = {"a": tensor(4, 6), "b": tensor(6, 4, seed=1), **(weights or {})}
    return model(nodes, X, all_weights, opset=opset)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("opset", [17, 20])
def test_statistics_of_a_layer_norm(tmp_path: Path, opset: int, eps: float) -> None:
    gain = {"g": tensor(6, low=0.5), "c": tensor(6, seed=5)}
    norm = node("LayerNormalization", "h g c", "m", epsilon=eps)
    source = two_layers(norm, weights=gain, opset=opset)
    carrier = load_onnx(source)
    for strategy in ("statistics", "mean"):
        new = _with_strategy(carrier, "a", 1, 9, strategy)
        proto = check(new, tmp_path, X, run_ort(source, X))
        fused = any(n.op_type == "LayerNormalization" for n in proto.graph.node)
        assert fused == (strategy == "mean")


def _with_strategy(carrier, name: str, axis: int, size: int, strategy: str):
    from meristem.rewrite.planner import solve
    from meristem.rewrite.script import edit_script

    graph = view_onnx(carrier)
    eq = Equations(graph).solve()
    w = next(w for w in graph.weights if w.name == name)
    term = find(eq.of(w)[axis])
    solution = solve(eq, {term: size}, strategies={term: [strategy]})
    return apply_script(carrier, edit_script(solution))


def test_statistics_of_an_rms_norm_and_of_one_spelled_out(tmp_path: Path) -> None:
    gain = {"g": tensor(6, low=0.5), "a1": np.array([-1]), "p": np.float32(2), "e": np.float32(0.1)}
    fused = two_layers(
        node("RMSNormalization", "h g", "m", epsilon=0.1), weights={"g": gain["g"]}, opset=23
    )
    spelled = two_layers(
        node("Pow", "h p", "q"), node("ReduceMean", "q a1", "v"), node("Add", "v e", "t"),
        node("Sqrt", "t", "r"), node("Reciprocal", "r", "i"), node("Mul", "h i", "n"),
        node("Mul", "n g", "m"), weights=gain,
    )  # fmt: skip
    for source in (fused, spelled):
        carrier = load_onnx(source)
        for strategy in ("statistics", "zero"):
            check(_with_strategy(carrier, "a", 1, 9, strategy), tmp_path, X, run_ort(source, X))


def test_a_grown_norm_grows_again(tmp_path: Path) -> None:
    gain = {"g": tensor(6, low=0.5), "c": tensor(6, seed=5)}
    source = two_layers(node("LayerNormalization", "h g c", "m"), weights=gain)
    first = _with_strategy(load_onnx(source), "a", 1, 9, "statistics")
    for carrier in (first, load_onnx(save(first, tmp_path / "first.onnx"))):
        graph = view_onnx(carrier)
        eq = Equations(graph).solve()
        a = next(w for w in graph.weights if w.name == "a")
        old, new = map(find, find(eq.of(a)[1]).parts)
        assert (old.size, new.size) == (6, 3)
        check(_grow(eq, carrier, {new: 7}), tmp_path, X, run_ort(source, X))


@pytest.mark.parametrize("boundary", ["crop", "grow"])
def test_boundaries(tmp_path: Path, boundary: str) -> None:
    source = two_layers(node("Relu", "h", "m"))
    carrier = load_onnx(source)
    new = grown(carrier, {("x", 2): 7}, boundary=boundary)
    path = save(new, tmp_path / "b.onnx")
    size = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_value
    assert size == (4 if boundary == "crop" else 7)
    feeds = X if boundary == "crop" else {"x": np.pad(X["x"], ((0, 0), (0, 0), (0, 3)))}
    assert_same(run_ort(path, feeds), run_ort(source, X))
    out = grown(carrier, {("b", 1): 6}, boundary=boundary)
    path = save(out, tmp_path / "o.onnx")
    (got,) = run_ort(path, X)
    assert got.shape[-1] == (4 if boundary == "crop" else 6)
    assert_same([got[..., :4]], run_ort(source, X))
    assert [v.name for v in onnx.load(path).graph.output] == ["y"]


def test_a_scattered_boundary(tmp_path: Path) -> None:
    """Old coordinates that are no prefix: the input is padded between them, the output gathered."""
    nodes = [node("Reshape", "x s", "a"), node("MatMul", "a w", "b"), node("Reshape", "b t", "y")]
    weights = {"s": np.array([2, 5, 2, 2]), "w": tensor(2, 2), "t": np.array([2, 5, 4])}
    source = model(nodes, X, weights)
    carrier = load_onnx(source)
    new = grown(carrier, {("w", 0): 3, ("w", 1): 5}, boundary="crop")
    check(new, tmp_path, X, run_ort(source, X))


def test_a_split_into_unequal_parts(tmp_path: Path) -> None:
    source = two_layers(
        node("Split", "h", "u v", axis=2, num_outputs=2), node("Mul", "u v", "w"),
        node("Concat", "w w", "m", axis=2),
    )  # fmt: skip
    carrier = load_onnx(source)
    (term,) = set(_atoms(carrier, "a", 1))
    assert term.size == 3
    check(grown_atom(carrier, term, 5), tmp_path, X, run_ort(source, X))
    uneven = two_layers(
        node("Split", "h", "u v w", axis=2, num_outputs=3), node("Relu", "u", "p"),
        node("Neg", "v", "q"), node("Exp", "w", "r"), node("Concat", "p q r", "m", axis=2),
    )  # fmt: skip
    carrier = load_onnx(uneven)
    first = _atoms(carrier, "a", 1)[0]
    proto = check(grown_atom(carrier, first, 3), tmp_path, X, run_ort(uneven, X))
    split = next(n for n in proto.graph.node if n.op_type == "Split")
    assert len(split.input) == 2
    assert not any(a.name == "num_outputs" for a in split.attribute)


def _atoms(carrier, name: str, axis: int):
    graph = view_onnx(carrier)
    eq = Equations(graph).solve()
    carrier.__dict__["_eq"] = eq
    w = next(w for w in graph.weights if w.name == name)
    return [find(t) for t in atoms_of(eq.of(w)[axis])]


def grown_atom(carrier, term, size: int):
    return _grow(carrier.__dict__["_eq"], carrier, {term: size})


def test_a_tile_that_repeats_more(tmp_path: Path) -> None:
    """Copies of a grown axis follow; only a count that grows is written."""
    nodes = [
        node("MatMul", "x a", "h"), node("Unsqueeze", "h u", "k"), node("Tile", "k r", "l"),
        node("Mul", "l g", "o"), node("Reshape", "o s", "m"), node("MatMul", "m b", "y"),
    ]  # fmt: skip
    weights = {
        "a": tensor(4, 3), "u": np.array([2]), "r": np.array([1, 1, 5, 1]), "g": tensor(5, 3),
        "s": np.array([2, 5, 15]), "b": tensor(15, 4, seed=1),
    }  # fmt: skip
    source = model(nodes, X, weights)
    for sizes, count in (({("a", 1): 4}, 5), ({("g", 0): 7}, 7)):
        carrier = load_onnx(source)
        proto = check(grown(carrier, sizes), tmp_path, X, run_ort(source, X))
        repeats = next(w for w in proto.graph.initializer if w.name.startswith("r"))
        assert onnx.numpy_helper.to_array(repeats).tolist() == [1, 1, count, 1]


def test_groups_of_a_convolution(tmp_path: Path) -> None:
    image = {"x": tensor(2, 4, 6, 6)}
    nodes = [node("Conv", "x a", "h"), node("Conv", "h d", "m", group=3), node("Conv", "m b", "y")]
    weights = {"a": tensor(3, 4, 1, 1), "d": tensor(3, 1, 3, 3), "b": tensor(4, 3, 1, 1, seed=2)}
    source = model(nodes, image, weights)
    proto = check(grown(load_onnx(source), {("a", 0): 5}), tmp_path, image, run_ort(source, image))
    assert proto.graph.node[1].attribute[0].i == 5


def test_a_shared_tensor_is_copied_for_the_use_that_grows(tmp_path: Path) -> None:
    zeros = np.zeros(6, np.float32)
    nodes = [
        node("MatMul", "x a", "h"), node("Add", "h z", "k"), node("Relu", "k", "m"),
        node("MatMul", "m b", "n"), node("MatMul", "n c", "o"), node("Add", "o z", "y"),
    ]  # fmt: skip
    weights = {"a": tensor(4, 6), "b": tensor(6, 4, seed=1), "c": tensor(4, 6, seed=2), "z": zeros}
    source = model(nodes, X, weights)
    carrier = load_onnx(source)
    proto = check(grown(carrier, {("a", 1): 9}), tmp_path, X, run_ort(source, X))
    shapes = {w.name: list(w.dims) for w in proto.graph.initializer}
    assert shapes["z"] == [9]
    assert shapes["z#2"] == [6]


def test_a_tied_table_grows_in_both_places(tmp_path: Path) -> None:
    ids = {"i": np.array([[0, 2, 1], [3, 3, 0]])}
    table = tensor(7, 4)
    nodes = [node("Gather", "emb i", "e"), node("RMSNormalization", "e g", "n"),
             node("MatMul", "n head", "y")]  # fmt: skip
    weights = {"emb": table, "head": table.T.copy(), "g": tensor(4, low=0.5)}
    source = model(nodes, ids, weights, opset=23)
    new = grown(load_onnx(source), {("emb", 1): 6})
    check(new, tmp_path, ids, run_ort(source, ids))
    state = state_dict(new)
    assert np.array_equal(state["emb"], state["head"].T)


def test_a_constant_node_that_grows_becomes_an_initialiser(tmp_path: Path) -> None:
    made = onnx.helper.make_node(
        "Constant", [], ["a"], value=onnx.numpy_helper.from_array(tensor(4, 6), "a")
    )
    nodes = [made, node("MatMul", "x a", "h"), node("MatMul", "h b", "y")]
    source = model(nodes, X, {"b": tensor(6, 4, seed=1)})
    proto = check(grown(load_onnx(source), {("a", 1): 8}), tmp_path, X, run_ort(source, X))
    assert {w.name for w in proto.graph.initializer} == {"a", "b"}
    assert not any(n.op_type == "Constant" for n in proto.graph.node)


def test_a_scale_that_a_program_computes_from_a_size_stays(tmp_path: Path) -> None:
    source = two_layers(
        node("Shape", "h", "s", start=2, end=3), node("Cast", "s", "f", to=1),
        node("Sqrt", "f", "r"), node("Div", "h r", "m"),
    )  # fmt: skip
    check(grown(load_onnx(source), {("a", 1): 9}), tmp_path, X, run_ort(source, X))


def test_a_folded_mask_hides_the_same_from_new_heads(tmp_path: Path) -> None:
    """A static export folds mask and position bias into one table with an axis of heads."""
    hidden = np.where(np.tri(5, dtype=bool), tensor(3, 5, 5), np.float32(-3e38)).astype(np.float32)
    source = attention(dynamic=False)
    source.graph.initializer.append(onnx.numpy_helper.from_array(hidden[None], "bias"))
    at = next(i for i, n in enumerate(source.graph.node) if n.op_type == "Softmax")
    source.graph.node[at].input[0] = "masked"
    source.graph.node.insert(at, node("Add", "s bias", "masked"))
    carrier = load_onnx(source)
    eq = Equations(view_onnx(carrier)).solve()
    w = next(w for w in eq.graph.weights if w.name == "bias")
    new = _grow(eq, carrier, {find(eq.of(w)[1]): 5})
    check(new, tmp_path, X, run_ort(source, X))
    grown_bias = state_dict(new)["bias"]
    assert np.array_equal(grown_bias[0, 3:] < -1e4, hidden[:2] < -1e4)


def test_types_of_fewer_bits(tmp_path: Path) -> None:
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        source = two_layers(node("Relu", "h", "m"))
        for w in source.graph.initializer:
            data = onnx.numpy_helper.to_array(w).astype(dtype)
            w.CopyFrom(onnx.numpy_helper.from_array(data, w.name))
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        for v in (*source.graph.input, *source.graph.output, *source.graph.value_info):
            v.type.tensor_type.elem_type = kind
        carrier = load_onnx(source)
        new = grown(carrier, {("a", 1): 9})
        path = save(new, tmp_path / "n.onnx")
        a = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
        assert a.dtype == dtype
        assert len(np.unique(a[:, 6:].astype(np.float32))) > 1  # drawn, not repeated
        assert_same(run_view(new, X), run_view(carrier, X), 1e-12)


def test_what_cannot_be_written_is_an_error() -> None:
    from meristem.rewrite.edits import SizeEdit
    from meristem.rewrite.graph import Slot

    carrier = load_onnx(two_layers(node("Relu", "h", "m")))
    relu = carrier.graph[1]
    script = EditScript(sizes=[SizeEdit(Slot(relu, ("unheard of", 0)), 0, 2, 3)])
    with pytest.raises(OutputError, match="cannot be rewritten"):
        apply_script(carrier, script)
