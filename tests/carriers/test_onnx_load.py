"""Loading: every form of a model, a round trip that changes nothing, and errors with advice."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import external_data_helper as external

from meristem.backends.onnx_file import save, state_dict
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.errors import CarrierError, OutputError
from tests.carriers.onnx_models import assert_same, model, node, run_ort, run_view, tensor

X = {"x": tensor(2, 3, 4)}


def mlp(**options):
    return model(
        [node("MatMul", "x w1", "a"), node("Relu", "a", "b"), node("MatMul", "b w2", "y")],
        X,
        {"w1": tensor(4, 40, seed=1), "w2": tensor(40, 4, seed=2)},
        **options,
    )


def with_external_data(folder: Path, location: str = "weights.bin") -> Path:
    proto = mlp()
    external.convert_model_to_external_data(proto, location=location, size_threshold=0)
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return path


def forms(folder: Path):
    proto = mlp()
    onnx.save(proto, folder / "one.onnx")
    yield folder / "one.onnx"
    yield str(folder / "one.onnx")
    yield proto
    yield ir.from_proto(proto)
    yield gs.import_onnx(proto)
    (folder / "data").mkdir()
    yield with_external_data(folder / "data")


def test_every_form_gives_the_same_view(tmp_path: Path) -> None:
    expected = run_ort(mlp(), X)
    for source in forms(tmp_path):
        carrier = load_onnx(source)
        assert {w.name for w in view_onnx(carrier).weights} == {"w1", "w2"}
        assert_same(run_view(carrier, X), expected)


def test_a_torch_onnx_program_is_a_source() -> None:
    class Program:
        model = ir.from_proto(mlp())

    assert_same(run_view(load_onnx(Program()), X), run_ort(mlp(), X))


def test_a_round_trip_changes_nothing(tmp_path: Path) -> None:
    proto = mlp(producer_name="somebody", doc_string="A model.")
    proto.metadata_props.add(key="licence", value="free")
    proto.graph.node[0].doc_string = "A product."
    proto.graph.node[0].name = "first"
    carrier = load_onnx(proto)
    view_onnx(carrier)
    again = onnx.load(save(carrier, tmp_path / "again.onnx"))
    records = [{v.name: v for v in m.graph.value_info} for m in (again, proto)]
    assert records[0] == records[1]
    for m in (again, proto):  # written in any order
        m.graph.ClearField("value_info")
    assert again == proto


def test_a_round_trip_keeps_external_data_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meristem.backends.onnx_file.EXTERNAL_BYTES", 100)
    (tmp_path / "in").mkdir()
    source = with_external_data(tmp_path / "in")
    saved = save(load_onnx(source), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size >= 2 * 4 * 40 * 4
    assert saved.stat().st_size < 1000
    assert_same(run_ort(saved, X), run_ort(source, X))


def test_state_dict_names_every_float_weight() -> None:
    assert {n: a.shape for n, a in state_dict(load_onnx(mlp())).items()} == {
        "w1": (4, 40),
        "w2": (40, 4),
    }


def test_the_source_is_never_changed() -> None:
    source = ir.from_proto(mlp())
    before = ir.to_proto(source).SerializeToString()
    carrier = load_onnx(source)
    carrier.graph.remove(carrier.graph[-1])
    assert ir.to_proto(source).SerializeToString() == before


# -- errors ----------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CarrierError, match="no file"):
        load_onnx(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    data = mlp().SerializeToString()
    (tmp_path / "half.onnx").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CarrierError, match="truncated"):
        load_onnx(tmp_path / "half.onnx")


def test_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is not a protobuf message at all")
    with pytest.raises(CarrierError, match=r"not a readable ONNX file|no graph with outputs"):
        load_onnx(tmp_path / "text.onnx")
    with pytest.raises(CarrierError, match="cannot load dict"):
        load_onnx({})


def test_missing_external_data(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CarrierError, match="does not exist") as caught:
        load_onnx(path)
    assert caught.value.weight == "w1"


def test_truncated_external_data(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-8])
    with pytest.raises(CarrierError, match="truncated"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "/etc/hostname"])
def test_external_data_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4000))
    (tmp_path / "model" / "sub").mkdir(parents=True)
    path = with_external_data(tmp_path / "model")
    data = path.read_bytes()
    proto = onnx.load_model_from_string(data)
    for weight in proto.graph.initializer:
        entry = next(e for e in weight.external_data if e.key == "location")
        entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CarrierError, match="outside of the model's folder"):
        load_onnx(path)


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = with_external_data(tmp_path / "model")
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "secret.bin")
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CarrierError, match="outside of the model's folder"):
        load_onnx(path)


def test_an_input_without_a_shape() -> None:
    proto = mlp()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(CarrierError, match="states no shape"):
        view_onnx(load_onnx(proto))


def test_a_record_that_contradicts_the_operators() -> None:
    proto = mlp()
    del proto.graph.value_info[:]
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, (2, 3, 41)))
    with pytest.raises(CarrierError, match="records"):
        view_onnx(load_onnx(proto))


# -- saving ----------------------------------------------------------------------------------------


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    carrier = load_onnx(mlp())
    carrier.graph[0].op_type = "Conv"
    (tmp_path / "model.onnx").write_text("precious")
    with pytest.raises(OutputError, match="was not written"):
        save(carrier, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "precious"


def test_saving_where_it_cannot_be(tmp_path: Path) -> None:
    carrier = load_onnx(mlp())
    for target in (tmp_path, tmp_path / "no" / "folder.onnx"):
        with pytest.raises(OutputError, match="cannot write"):
            save(carrier, target)


def test_saving_over_the_file_that_is_read(tmp_path: Path) -> None:
    path = with_external_data(tmp_path)
    carrier = load_onnx(path)
    with pytest.raises(OutputError, match="another name"):
        save(carrier, path)
    save(carrier, tmp_path / "other.onnx")


def test_large_models_are_saved_with_external_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meristem.backends.onnx_file.PROTO_LIMIT", 1000)
    monkeypatch.setattr("meristem.backends.onnx_file.EXTERNAL_BYTES", 100)
    path = save(load_onnx(mlp()), tmp_path / "large.onnx")
    assert path.stat().st_size < 1000
    assert_same(run_ort(path, X), run_ort(mlp(), X))
    assert np.array_equal(state_dict(load_onnx(path))["w1"], tensor(4, 40, seed=1))
