"""What ``grow --verify`` measures is the written file, whatever its format."""

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

import meristem
from meristem.verification_written import verify_written


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    model = meristem.trace(module, (torch.randn(3, 6),), None, None)
    return model, meristem.grow(model, {"mlp": 12})


def spoiled(path):
    if path.suffix == ".onnx":
        proto = onnx.load(path)
        tensor = max(proto.graph.initializer, key=lambda t: len(t.dims))
        array = numpy_helper.to_array(tensor) * 3
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(proto, path)
    else:
        tensors = load_file(path)
        max(tensors.values(), key=torch.Tensor.numel).view(-1)[0] += 1e-6
        del tensors["2.bias"]
        save_file(tensors, path)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_file_of_another_format_is_read_again(pair, tmp_path, suffix):
    path = pair[1].save(tmp_path / f"big{suffix}")
    assert verify_written(*pair, path).ok
    spoiled(path)
    report = verify_written(*pair, path)
    level = "deployment" if suffix == ".onnx" else "algebra"
    assert [n for n, v in report.levels.items() if v.word == "differs"] == [level]
    if suffix == ".safetensors":
        assert report.levels[level].reason == (
            "big.safetensors and the model do not both have 2.bias (and 1 more)"
        )
        assert any(
            "big.safetensors holds other numbers for" in n for n in report.levels[level].notes
        )
