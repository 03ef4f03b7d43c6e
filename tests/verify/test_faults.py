"""Every mistake is caught, by the level that is made for it, and located at the operator that makes it."""

import numpy as np
import pytest
import torch

import meristem
from meristem.rewrite.errors import RuntimeUnavailable
from tests.verify import faults
from tests.verify.faults import SITES, located, module_of
from tests.verify.models import onnx_file, spoil, traced
from tests.zoo import build, inputs
from tests.zoo.exports import export

FULL = pytest.mark.full
SLOW = [pytest.param(n, marks=FULL) for n in SITES]
MODELS = ["gpt2", *SLOW[1:]]


def verify(name, grown, **more):
    """On two inputs; a fault that takes luck to see would be none."""
    model = traced(name)
    given = []
    for seed in (1, 2):
        args, kwargs = inputs(name, 2, 7, seed=seed)
        given.append((*args, *kwargs.values()))
    return meristem.verify(model, grown, runtime="torch", inputs=given, **more)


def grown(name):
    return meristem.grow(traced(name), SITES[name].growth)


def caught(report, *levels):
    assert not report.ok
    for level in levels:
        assert report.levels[level].word == "differs", str(report)


@pytest.mark.parametrize("name", MODELS)
def test_one_weight_off_by_a_thousandth(name):
    site, other = SITES[name], grown(name)
    spoil(other, site.weight)
    report = verify(name, other)
    caught(report, "algebra")
    assert site.weight in report.levels["algebra"].reason
    assert located(report).place == module_of(site.weight)
    assert site.weight in located(report).weights


@pytest.mark.parametrize("name", SLOW)
def test_one_bias_off(name):
    site, other = SITES[name], grown(name)
    spoil(other, site.bias, 0.01)
    report = verify(name, other)
    caught(report, "algebra", "deployment")
    assert located(report).place == module_of(site.bias)
    assert site.bias in located(report).weights


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_epsilon(name):
    site, other = SITES[name], grown(name)
    faults.set_epsilon(other, site.norm, 1.5)
    report = verify(name, other)
    caught(report, "algebra")
    assert located(report).place == site.norm
    assert "norm" in located(report).op


@pytest.mark.parametrize("name", MODELS)
def test_a_swapped_head(name):
    site, other = SITES[name], grown(name)
    faults.swap(other.carrier.tensors[site.heads], site.axis, site.size)
    report = verify(name, other)
    caught(report, "algebra", "deployment")
    assert located(report).place == module_of(site.heads)


@pytest.mark.parametrize("name", [pytest.param("qwen2", marks=FULL)])
def test_rotary_frequencies_of_another_length(name):
    site, other = SITES[name], grown(name)
    table = other.carrier.tensors[site.rotary]
    exponents = torch.arange(len(table)) / (len(table) + 1)
    faults.replace_tensor(other, site.rotary, 10_000.0**-exponents)
    report = verify(name, other)
    caught(report, "algebra", "deployment")
    assert located(report).place == module_of(site.rotary)
    assert located(report).weights == (site.rotary,)


def test_a_table_of_positions_that_is_too_short():
    other = grown("gpt2")
    table = other.carrier.tensors["transformer.wpe.weight"]
    faults.replace_tensor(other, "transformer.wpe.weight", table[:5].detach().clone())
    report = verify("gpt2", other)
    caught(report, "algebra", "deployment")
    assert "stored as (5, 36)" in report.levels["algebra"].reason
    stopped = [n for n in report.levels["algebra"].notes if "the grown model stops" in n]
    assert "index out of range" in stopped[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_exported_from_other_weights(name):
    module, args, kwargs = build(name, seed=1)
    other = meristem.grow(meristem.trace(module, args, kwargs), grown(name).plan)
    report = verify(name, other)
    caught(report, "algebra", "deployment")
    assert SITES[name].first in located(report).weights


@pytest.mark.parametrize("name", SLOW)
def test_outputs_that_are_no_numbers(name):
    site, other = SITES[name], grown(name)
    spoil(other, site.last, float("nan"))
    report = verify(name, other)
    caught(report, "algebra", "deployment")
    assert report.levels["deployment"].statistics[0].max == float("inf")


def test_equal_outputs_that_are_no_numbers():
    module, args, kwargs = build("gpt2")
    with torch.no_grad():
        module.transformer.ln_f.weight[0] = float("nan")
    model = meristem.trace(module, args, kwargs)
    report = meristem.verify(model, meristem.grow(model, {"mlp": "x1.5"}), runtime="torch")
    assert not report.ok
    assert report.levels["algebra"].word == report.levels["deployment"].word == "not checked"
    assert "no number" in report.levels["algebra"].reason


# -- files ------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Original, grown file and plan."""
    path = onnx_file(tmp_path / "m.onnx")
    model = meristem.grow(meristem.load(path), {"hidden": "x1.5", "mlp": "x2"})
    return meristem.load(path), model.save(tmp_path / "g.onnx"), model.plan


@pytest.mark.parametrize(
    ("name", "op"), [("up.weight", "MatMul"), ("up.bias", "Add"), ("stem.weight", "MatMul")]
)
def test_one_weight_of_a_file(files, name, op):
    model, path, plan = files
    faults.edit_weight(path, name, lambda x: x + 1e-3 * (np.arange(x.size).reshape(x.shape) == 0))
    report = meristem.verify(model, faults.planned(path, plan))
    caught(report, "algebra")
    assert (located(report).op, located(report).weights) == (op, (name,))


def test_two_files_without_a_plan_are_compared_by_name(tmp_path):
    path, other = (onnx_file(tmp_path / f"{k}.onnx") for k in "ab")
    faults.edit_weight(other, "down.weight", lambda x: x * 1.01)
    report = meristem.verify(path, other)
    assert report.levels["algebra"].word == "not checked"
    (found,) = [a for a in report.levels["deployment"].layers if a.located]
    assert found.weights == ("down.weight",)


def test_a_file_of_other_weights(files, tmp_path):
    model, _, plan = files
    other = meristem.load(onnx_file(tmp_path / "o.onnx", seed=1))
    path = meristem.grow(other, plan).save(tmp_path / "og.onnx")
    report = meristem.verify(model, faults.planned(path, plan))
    caught(report, "algebra", "deployment")
    assert located(report).weights == ("stem.weight",)


def test_a_file_without_numbers(files):
    model, path, plan = files
    faults.edit_weight(path, "head.weight", lambda x: x * np.float32("nan"))
    report = meristem.verify(model, faults.planned(path, plan))
    caught(report, "algebra", "deployment")
    assert located(report).weights == ("head.weight",)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_faults_in_exported_files(name, tmp_path):
    site = SITES[name]
    model = meristem.load(export(name, False, 23, tmp_path))
    tall = meristem.grow(model, site.growth)
    stored = {w.name: w for w in tall.graph.weights}

    def fresh():
        return tall.save(tmp_path / "g.onnx")

    def report_of(path):
        return meristem.verify(model, faults.planned(path, tall.plan), optimizations="off")

    def nudged(x):
        x.flat[0] += 0.01
        return x

    for weight in (site.weight, site.bias):
        if weight not in stored:  # the exporter stores it under a name of its own
            continue
        path = fresh()
        faults.edit_weight(path, weight, nudged)
        report = report_of(path)
        caught(report, "algebra")
        assert weight in located(report).weights
    path = fresh()
    faults.edit_epsilon(path, 1, 1.5)
    report = report_of(path)
    caught(report, "algebra")
    assert located(report).op.endswith("Normalization")


# -- providers --------------------------------------------------------------------------------------

LISTED = "DnnlExecutionProvider"


@pytest.mark.parametrize("admits", [True, False])
def test_a_provider_that_silently_fell_back(files, monkeypatch, admits):
    """The build lists a provider, and sessions run on the CPU, whatever they say."""
    ort = pytest.importorskip("onnxruntime")
    real = ort.InferenceSession

    class Fallen:
        def __init__(self, path, options, providers):
            self.asked = [p[0] if isinstance(p, tuple) else p for p in providers]
            self.own = real(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return self.own.get_providers() if admits else self.asked

        def __getattr__(self, name):
            return getattr(self.own, name)

    monkeypatch.setattr(ort, "InferenceSession", Fallen)
    listed = [LISTED, "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    model, path, plan = files
    with pytest.raises(RuntimeUnavailable, match=LISTED):
        meristem.verify(model, faults.planned(path, plan), providers=LISTED)
