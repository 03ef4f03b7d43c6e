"""Models that do not go together, files that a runtime does not know, machines that are too small."""

import numpy as np
import onnx
import pytest

import meristem
from meristem.rewrite.errors import CarrierError
from meristem.verify import memory
from tests.verify.models import mixer, onnx_file, spoil


def changed(path, target, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, target)
    return target


def test_other_inputs(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")

    def one_more(model):
        model.graph.input.append(
            onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 6])
        )

    with pytest.raises(
        CarrierError, match=r"take different inputs: x float32\(batch, 6\) and x .* z"
    ):
        meristem.verify(path, changed(path, tmp_path / "n.onnx", one_more))
    with pytest.raises(CarrierError, match="take different inputs: tokens int64"):
        meristem.verify(mixer(), path)


def test_other_outputs(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")

    def hidden_too(model):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["batch", 8])
        )

    with pytest.raises(
        CarrierError, match=r"gives 1 output \(y\), the grown model 2 outputs \(y, r\)"
    ):
        meristem.verify(path, changed(path, tmp_path / "n.onnx", hidden_too))


def test_an_opset_that_the_runtime_does_not_know(tmp_path):
    def later(model):
        model.opset_import[0].version = 99

    path = changed(onnx_file(tmp_path / "m.onnx"), tmp_path / "n.onnx", later)
    report = meristem.verify(path, path)
    assert not report.ok
    found = report.levels["deployment"]
    assert found.word == "not checked"
    assert "Opset 99" in found.reason
    assert "/onnxruntime" not in found.reason


def test_a_small_machine(tmp_path, monkeypatch):
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    there = 6.0 * (memory.numbers(model.graph) + memory.numbers(grown.graph))
    monkeypatch.setattr(memory, "available", lambda: there)
    report = meristem.verify(model, grown, optimizations="all")
    assert report.ok  # the original alone fits in float64, and both in their own type
    assert "evaluating both models in float64 needs about" in report.levels["algebra"].reason
    assert "GB are free here" in report.levels["algebra"].reason
    assert "gradients" in report.levels["training"].reason
    report = meristem.verify(model, grown)
    assert [v.word for v in report.levels.values()] == ["not checked"] * 3
    assert "running both models in 2 settings" in report.levels["deployment"].reason
    assert "ask for fewer" in report.levels["deployment"].reason
    spoil(grown, "down.weight", 1e-3)  # stored weights are compared one by one
    report = meristem.verify(model, grown)
    assert report.levels["algebra"].word == "differs"


def test_what_the_system_says(tmp_path, monkeypatch):
    assert 1e6 < memory.available() < 1e16
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("3000000000\n")
    used.write_text("1000000000\n")
    monkeypatch.setattr(memory, "_GROUPS", ((str(limit), str(used)),))
    assert memory.available() <= 2e9
    limit.write_text("max\n")
    assert memory.available() > 1e6


@pytest.mark.full
def test_three_gigabytes_on_a_machine_of_two(tmp_path, monkeypatch):
    """Nothing of the file is read into memory: its weights are a hole in a file."""
    rows, columns = 1000, 750_000
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[rows, columns])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    size = 4 * rows * columns
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [shape("x", onnx.TensorProto.FLOAT, ["n", rows])],
        [shape("y", onnx.TensorProto.FLOAT, ["n", columns])],
        [tensor],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "big.onnx")
    monkeypatch.setattr(memory, "available", lambda: 2e9)
    report = meristem.verify(tmp_path / "big.onnx", tmp_path / "big.onnx")
    assert not report.ok
    assert "needs about 13.2 GB of memory, and 2 GB are free" in report.levels["deployment"].reason
    assert np.prod((rows, columns)) * 4 == 3e9
