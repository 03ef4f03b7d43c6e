"""Models that grow on their way through Optimum: `make test-pipelines` runs this in its environment."""

import json

import pytest
import torch

import meristem
from tests.integrations.examples import example

pytest.importorskip(
    "optimum.exporters.onnx", reason="needs Optimum, which has an environment: make test-pipelines"
)
from meristem.integrations.optimum_export import main_export
from tests.integrations.pretrained_models import decoder, encoder, summariser, tokens

# The exporter that Optimum uses is torch's old one, and warns of that, and of what it traces.
pytestmark = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::UserWarning",
    "ignore::FutureWarning",
)  # fmt: skip


def test_a_saved_decoder_is_exported_with_its_cache_and_generates_the_same(tmp_path):
    from optimum.onnxruntime import ORTModelForCausalLM

    module = decoder()
    module.save_pretrained(tmp_path / "small")
    exported = main_export(
        tmp_path / "small", tmp_path / "onnx", {"mlp": "x2", "hidden": 48, "heads": 6},
        pretrained=tmp_path / "large",
    )  # fmt: skip
    assert exported.grown.config["hidden_size"] == 48
    assert set(exported.reports) == {"model.onnx"}
    report = exported.reports["model.onnx"]
    assert report.ok
    assert report.levels["deployment"].word in ("bit-exact", "noise-floor")
    assert not exported.notes
    assert json.loads((tmp_path / "onnx/config.json").read_text())["num_attention_heads"] == 6
    deployed = ORTModelForCausalLM.from_pretrained(tmp_path / "onnx")
    assert any("past_key_values" in n for n in deployed.input_names)
    larger = type(module).from_pretrained(tmp_path / "large").eval()
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    said = [m.generate(**tokens(), **how) for m in (module, larger, deployed)]
    assert said[0].shape == (2, 11)
    assert all(torch.equal(s, said[0]) for s in said)


def test_new_layers_have_caches_so_they_are_compared_without(tmp_path):
    exported = main_export(decoder(), tmp_path / "onnx", {"layers": 3})
    assert exported.notes == [
        "caches have other shapes, so the models were compared by text-generation"
    ]
    assert exported.reports["model.onnx"].ok
    inputs = meristem.load(tmp_path / "onnx/model.onnx").graph.inputs
    assert sum(v.name.endswith(".key") for v in inputs) == 3


def test_the_four_files_of_an_encoder_and_a_decoder(tmp_path):
    exported = main_export(summariser(), tmp_path / "onnx", {"mlp": 64})
    names = ("encoder_model", "decoder_model", "decoder_with_past_model", "decoder_model_merged")
    assert set(exported.reports) == {f"{name}.onnx" for name in names}
    assert all(report.ok for report in exported.reports.values())


def test_what_optimum_only_warns_of_is_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(meristem.NotPreserved, match="Optimum's validation of the larger model"):
        # No error is within a negative tolerance.
        main_export(encoder(), tmp_path / "onnx", {"mlp@*layer*": 64}, atol=-1.0)
    assert not list(tmp_path.iterdir())


def test_what_differs_from_the_model_before_is_an_error(tmp_path, monkeypatch):
    """The larger model is spoiled after it was compared: Optimum exports and accepts it."""
    from meristem.integrations import optimum_export

    grow = optimum_export.grow_pretrained

    def spoiled(*args, **kwargs):
        grown = grow(*args, **kwargs)
        with torch.no_grad():
            grown.module.classifier.weight[0, 0] += 1e-3
        return grown

    monkeypatch.setattr(optimum_export, "grow_pretrained", spoiled)
    with pytest.raises(meristem.NotPreserved, match=r"model\.onnx is not the same function"):
        main_export(encoder(), tmp_path / "onnx", {"mlp@*layer*": 64})
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path):
    with pytest.raises(meristem.CarrierError, match=r"has no config\.json"):
        main_export(tmp_path / "nothing", tmp_path / "onnx", {"mlp": 64})
    with pytest.raises(meristem.SizeError):
        main_export(encoder(), tmp_path / "onnx", {"mlp": 3}, task="text-classification")
    assert not list(tmp_path.iterdir())


def test_the_example(tmp_path, capsys):
    example("optimum_export").main(tmp_path)
    said = capsys.readouterr().out
    assert "config: {'intermediate_size': 128}" in said
    assert "model.onnx: the same function" in said
    assert said.count("differs by") == 2
