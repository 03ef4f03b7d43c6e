"""Runtimes and providers: what is not there is said, never replaced."""

from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch

import meristem
from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.inputs import Sample
from meristem.verify.programs import TorchModule
from meristem.verify.runtimes import CPU, Session, mixed_installation, provider_names
from tests.verify.models import mixer, onnx_file

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_names():
    assert provider_names(None) == [CPU]
    assert provider_names("cuda") == [CPU, "CUDAExecutionProvider"]
    assert provider_names(["cpu", "QNNExecutionProvider"]) == [CPU, "QNNExecutionProvider"]
    with pytest.raises(RuntimeUnavailable, match="no execution provider"):
        provider_names("gpu")


@needs_no_gpu
def test_a_provider_that_does_not_run_is_an_error(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    with pytest.raises(RuntimeUnavailable, match="does not run on CUDAExecutionProvider"):
        meristem.verify(path, path, providers=["cuda"])
    with pytest.raises(RuntimeUnavailable, match="does not run on QNN"):
        Session(path, "QNNExecutionProvider")


@needs_no_gpu
def test_torch_without_a_gpu():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    with pytest.raises(RuntimeUnavailable, match="no cuda device"):
        meristem.verify(model, grown, runtime="torch", providers="cuda")
    with pytest.raises(RuntimeUnavailable, match="is not known"):
        meristem.verify(model, grown, runtime="tensorrt")


def test_two_distributions_are_named(monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    assert "onnxruntime 1.0 and onnxruntime-gpu 1.0" in mixed_installation()
    assert "uninstall all of them" in mixed_installation()


def test_one_distribution_is_fine():
    assert mixed_installation() == ""


def test_initializers_that_a_file_lists_as_inputs(tmp_path):
    """As files before IR version 4 do; nobody feeds them."""
    path, old = onnx_file(tmp_path / "m.onnx"), tmp_path / "old.onnx"
    model = onnx.load(path)
    for t in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        model.graph.input.append(value)
    onnx.save(model, old)
    for pair in ((path, old), (old, path)):
        report = meristem.verify(*pair, runtime=["onnxruntime", "onnx.reference"])
        assert report.ok, str(report)
        assert "onnx.reference" in report.levels["deployment"].reason


class Settings(torch.nn.Module):
    """What a process has set for products while it runs, in the older names or the newer."""

    found: ClassVar[list[str]] = []

    def forward(self, x):
        self.found.append(torch.backends.mkldnn.matmul.fp32_precision)
        self.found.append(torch.backends.cuda.matmul.fp32_precision)
        return x


@pytest.mark.parametrize("newer", [False, True])
def test_torch_multiplies_exactly_whatever_the_process_asks_for(newer):
    model = mixer()
    program = TorchModule(model.carrier, model.module())
    program.module = lambda *args: Settings()(args[0])
    Settings.found.clear()
    matmul = torch.backends.mkldnn.matmul
    if newer:
        matmul.fp32_precision = "bf16"
    else:
        torch.set_float32_matmul_precision("medium")
    try:
        tokens = np.ones((2, 3), np.int64)
        program(Sample("one", {"tokens": tokens, "mask": tokens}))
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")
    assert Settings.found == ["ieee", "ieee"]


def test_an_onnx_model_has_no_torch_runtime(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    report = meristem.verify(path, path, runtime="torch")
    assert report.levels["deployment"].word == "not checked"
    assert not report.ok
