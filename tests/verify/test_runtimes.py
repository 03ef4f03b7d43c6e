"""Runtimes and providers: what is not there is said, never replaced."""

import pytest

import meristem
from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.runtimes import CPU, Session, mixed_installation, provider_names
from tests.verify.models import mixer, onnx_file


def _no_cuda(path) -> bool:
    import torch

    return not torch.cuda.is_available()


def test_names():
    assert provider_names(None) == [CPU]
    assert provider_names("cuda") == [CPU, "CUDAExecutionProvider"]
    assert provider_names(["cpu", "QNNExecutionProvider"]) == [CPU, "QNNExecutionProvider"]
    with pytest.raises(RuntimeUnavailable, match="no execution provider"):
        provider_names("gpu")


def test_a_provider_that_does_not_run_is_an_error(tmp_path):
    if not _no_cuda(tmp_path):
        pytest.skip("this machine has a GPU")
    path = onnx_file(tmp_path / "m.onnx")
    with pytest.raises(RuntimeUnavailable, match="does not run on CUDAExecutionProvider"):
        meristem.verify(path, path, providers=["cuda"])
    with pytest.raises(RuntimeUnavailable, match="does not run on QNN"):
        Session(path, "QNNExecutionProvider")


def test_torch_without_a_gpu():
    if not _no_cuda(None):
        pytest.skip("this machine has a GPU")
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


def test_an_onnx_model_has_no_torch_runtime(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    report = meristem.verify(path, path, runtime="torch")
    assert report.levels["deployment"].word == "not checked"
    assert not report.ok
