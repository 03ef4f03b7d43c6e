"""Inputs from files, folders, generators and sizes; what does not fit is refused with its place."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

import meristem
from meristem.rewrite.errors import CarrierError, SelectorError, SizeError
from meristem.verify.sources import read_inputs
from tests.verify.models import mixer, onnx_file


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return onnx_file(tmp_path_factory.mktemp("sources") / "m.onnx")


def numbers(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)


def data_set(folder, number, x, y=None, name="x"):
    at = folder / f"test_data_set_{number}"
    at.mkdir(parents=True)
    (at / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(x, name).SerializeToString())
    if y is not None:
        (at / "output_0.pb").write_bytes(onnx.numpy_helper.from_array(y, "y").SerializeToString())


def ran(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_archives_and_generators(path, tmp_path):
    np.savez(tmp_path / "a.npz", x=numbers(3))
    np.savez(tmp_path / "b.npz", x=numbers(2))
    file = tmp_path / "runs.py"
    file.write_text(
        "import numpy as np\ndef pairs():\n    for n in (4, 7):\n"
        "        yield (np.ones((n, 6), np.float32),)\n"
    )
    found = meristem.verify(
        path, path, inputs=[tmp_path / "a.npz", str(tmp_path / "b.npz"), f"{file}:pairs"]
    ).levels["deployment"]
    assert found.word == "bit-exact"
    assert found.inputs == ["a.npz", "b.npz", "runs.py:pairs 0", "runs.py:pairs 1"]


def test_iterables_and_callables(path):
    runs = ({"x": numbers(n)} for n in (2, 3))
    assert meristem.verify(path, path, inputs=runs).levels["deployment"].inputs == [
        "input 0", "input 1",
    ]  # fmt: skip
    assert meristem.verify(path, path, inputs=lambda: [(numbers(2),)]).ok


@pytest.mark.parametrize("name", ["x", ""])
def test_folders_with_expected_outputs(path, tmp_path, name):
    x = numbers(3)
    data_set(tmp_path, 0, x, ran(path, x), name)
    data_set(tmp_path, 10, numbers(2), None, name)
    found = meristem.verify(path, path, inputs=tmp_path).levels["deployment"]
    assert found.inputs == ["test_data_set_0", "test_data_set_10"]
    assert sum("test_data_set_0 expects" in m.what for m in found.measures) == 2
    one = list(read_inputs(tmp_path / "test_data_set_0"))
    assert np.array_equal(one[0].expected[0], ran(path, x))


def test_expected_outputs_of_something_else(path, tmp_path):
    x = numbers(3)
    wrong = ran(path, x)
    wrong[0, 0] += 1e-2
    data_set(tmp_path, 0, x, wrong)
    report = meristem.verify(path, path, inputs=tmp_path)
    assert not report.ok
    assert "against what test_data_set_0 expects" in report.levels["deployment"].reason


def test_expected_outputs_of_another_shape(path, tmp_path):
    data_set(tmp_path, 0, numbers(3), np.zeros((3, 4), np.float32))
    report = meristem.verify(path, path, inputs=tmp_path)
    assert "instead of (3, 4)" in report.levels["deployment"].reason


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.npz", "no archive", "cannot be read"),
        ("a.txt", "", "nothing that inputs are read from"),
        ("a.py:runs", "raise ValueError(3)", r"fails as it is imported \(ValueError: 3"),
        ("a.py:runs", "runs = 3", "has no function 'runs'"),
        ("missing.npz", None, "cannot be read"),
        ("missing.py:f", None, "is not there"),
        ("missing", None, "is not there"),
    ],
)
def test_sources_that_cannot_be_read(path, tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name.partition(":")[0]).write_text(text)
    with pytest.raises(CarrierError, match=words):
        meristem.verify(path, path, inputs=str(tmp_path / name))


def test_a_folder_without_tensors(path, tmp_path):
    with pytest.raises(CarrierError, match=r"has no input_0\.pb"):
        meristem.verify(path, path, inputs=tmp_path)
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(CarrierError, match="holds no tensor"):
        meristem.verify(path, path, inputs=tmp_path)


def test_inputs_that_are_no_list(path):
    with pytest.raises(CarrierError, match="one dict; give a list"):
        meristem.verify(path, path, inputs={"x": numbers(2)})
    with pytest.raises(CarrierError, match="inputs= is empty"):
        meristem.verify(path, path, inputs=[])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 7), np.float32), "7 entries along axis 1, the model takes 6"),
        (np.zeros(6, np.float32), r"1 axes, the model takes \(batch, 6\)"),
    ],
)
def test_inputs_of_another_shape(path, x, words):
    with pytest.raises(CarrierError, match=words):
        meristem.verify(path, path, inputs=[{"x": x}])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([["a"] * 6]), "x holds <U1; give real numbers"),
        (np.array([[None] * 6]), "x holds object; give real numbers"),
        (np.ones((2, 6)) * 1j, "x holds complex128; give real numbers"),
        (np.full((2, 6), 1e300), "beyond float32"),
    ],
)
def test_inputs_that_are_no_numbers_of_the_model(path, x, words):
    with pytest.raises(CarrierError, match=words):
        meristem.verify(path, path, inputs=[(x,)])


def test_narrow_floats_widen(path):
    x = np.ones((2, 6), ml_dtypes.bfloat16)
    assert meristem.verify(path, path, inputs=[(x,)], optimizations="off").ok


def test_names_that_the_model_does_not_have(path, tmp_path):
    for wrong in ({"xx": numbers(2)}, {"x": numbers(2), "z": numbers(2)}):
        with pytest.raises(CarrierError, match=r"takes no input '(xx|z)'.* its inputs are x"):
            meristem.verify(path, path, inputs=[wrong])
    with pytest.raises(CarrierError, match="takes x besides"):
        meristem.verify(path, path, inputs=[{}])
    np.savez(tmp_path / "wrong.npz", wrong=numbers(2))
    with pytest.raises(CarrierError, match=r"wrong\.npz: the model takes no input 'wrong'"):
        meristem.verify(path, path, inputs=tmp_path / "wrong.npz")
    data_set(tmp_path, 0, numbers(2), None, "wrong")
    with pytest.raises(CarrierError, match="test_data_set_0: the model takes no input 'wrong'"):
        meristem.verify(path, path, inputs=tmp_path)


def test_archives_without_names_are_in_order(tmp_path):
    np.savez(tmp_path / "a.npz", *(numbers(n) for n in range(1, 12)))
    (found,) = read_inputs(tmp_path / "a.npz")
    assert [a.shape[0] for a in found.values] == list(range(1, 12))


def test_integers_that_the_type_does_not_have():
    model = mixer()
    tokens = np.array([[0, 1, 2]], np.uint64)
    tokens[0, 0] = 2**63
    with pytest.raises(CarrierError, match="holds numbers of uint64 that int64 does not have"):
        meristem.verify(model, model, inputs=[(tokens, np.ones((1, 3), np.int64))])


def test_an_index_outside_of_its_table():
    model = mixer()  # tokens + 1 reads a table of 11 rows
    mask = np.ones((2, 3), np.int64)
    tokens = np.array([[0, 1, 2], [3, 4, 57]])
    with pytest.raises(CarrierError, match=r"holds 57, and the table .* takes -1 to 9") as caught:
        meristem.verify(model, model, inputs=[(tokens, mask)])
    assert caught.value.index == 57
    with pytest.raises(CarrierError, match="fractions"):
        meristem.verify(model, model, inputs=[(tokens / 60, mask)])
    with pytest.raises(CarrierError, match="4 entries along axis 1, the model takes 3"):
        meristem.verify(model, model, inputs=[(tokens % 9, np.ones((2, 4), np.int64))])


@pytest.mark.parametrize("sizes", [{"sequence": 64, "batch": 4}, {"tokens:1": 64, "mask:0": 4}])
def test_sizes_of_drawn_inputs(sizes):
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    report = meristem.verify(model, grown, runtime="torch", sizes=sizes)
    assert report.ok, str(report)
    for found in (report.levels["algebra"], report.levels["deployment"]):
        assert len(found.inputs) >= 6
        assert all("4x64 and 4x64" in i for i in found.inputs)


def test_sizes_that_cannot_be(path):
    with pytest.raises(SelectorError, match="no dynamic axis is called so; there are batch, x:0"):
        meristem.verify(path, path, sizes={"sequence": 8})
    with pytest.raises(SizeError, match="takes 1 to"):
        meristem.verify(path, path, sizes={"batch": 0})
    for size in ("4", 4.5, True):
        with pytest.raises(SizeError, match="is no whole number"):
            meristem.verify(path, path, sizes={"batch": size})
    with pytest.raises(SizeError, match="is no mapping"):
        meristem.verify(path, path, sizes=[4])


def test_sizes_and_seeds_are_of_drawn_inputs(path):
    for given in ({"sizes": {"batch": 3}}, {"seed": 1}):
        with pytest.raises(SizeError, match="of inputs that are drawn"):
            meristem.verify(path, path, inputs=[(numbers(2),)], **given)


def test_a_size_beyond_a_table_names_it(tmp_path):
    """A Gather whose indices a size makes: where it fails is said, with the table."""
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1),
        node("Squeeze", ["s"], ["n"]),
        node("Range", ["zero", "n", "one"], ["i"]),
        node("Gather", ["positions", "i"], ["p"]),
        node("Add", ["x", "p"], ["y"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.array(0), "zero"),
        onnx.numpy_helper.from_array(np.array(1), "one"),
        onnx.numpy_helper.from_array(numbers(8), "positions"),
    ]
    kinds = ([info(n, onnx.TensorProto.FLOAT, ["batch", 6])] for n in "xy")
    graph = onnx.helper.make_graph(nodes, "g", *kinds, weights)
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "p.onnx"
    )
    report = meristem.verify(tmp_path / "p.onnx", tmp_path / "p.onnx", sizes={"batch": 20})
    assert "Gather of positions: index " in report.levels["deployment"].reason


def test_a_seed_draws_others(path):
    first, second = (
        meristem.verify(path, path, seed=s).levels["deployment"].measures[0].error for s in (0, 9)
    )
    assert first != second
