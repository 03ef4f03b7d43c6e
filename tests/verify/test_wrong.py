"""The checker is checked: every kind of mistake must be caught, by the level that is made for it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import meristem
from meristem.rewrite.errors import CarrierError
from tests.verify.models import mixer, onnx_file, spoil, tensors, traced

GROWTH = {"mlp": "x1.5", "heads": "x1.5", "hidden": "x1.5"}


def report_of(model, grown):
    return meristem.verify(model, grown, runtime="torch")


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.mlp.c_fc.weight",  # a matrix
        "transformer.h.1.attn.c_proj.bias",  # a bias
        "transformer.h.0.ln_1.weight",  # a gain
        "transformer.wpe.weight",  # an embedding
    ],
)
@pytest.mark.parametrize("at", [0, -1], ids=["old", "new"])
def test_one_weight_changed_by_a_thousandth(name, at):
    model = traced("gpt2")
    grown = meristem.grow(model, GROWTH)
    spoil(grown, name, 1e-3, at)
    report = report_of(model, grown)
    assert not report.ok
    assert report.levels["algebra"].word == "differs"
    assert name in report.levels["algebra"].reason


def test_an_old_weight_changed_without_a_plan_shows_in_deployment():
    model = traced("gpt2")
    grown = meristem.grow(model, GROWTH)
    spoil(grown, "transformer.h.0.mlp.c_fc.weight")
    grown.plan = None
    report = report_of(model, grown)
    assert report.levels["deployment"].word == "differs"
    assert not report.ok


def _set_eps(grown, factor):
    for node in grown.carrier.graph.nodes:
        if str(node.target) == "aten.layer_norm.default":
            args = list(node.args)
            args[4] *= factor
            node.args = tuple(args)
            grown.carrier.program.graph_module.recompile()
            return
    raise AssertionError("there is no layer norm")


@pytest.mark.parametrize("factor", [1.001, 1.5])
def test_a_wrong_epsilon(factor):
    model = traced("gpt2")
    grown = meristem.grow(model, {"mlp": "x1.5"})
    _set_eps(grown, factor)
    report = report_of(model, grown)
    assert report.levels["algebra"].word == "differs"


def test_a_swapped_head():
    model = traced("bert")
    grown = meristem.grow(model, {"heads": "+2"})
    q = tensors(grown)["bert.encoder.layer.0.attention.self.query.weight"]
    with torch.no_grad():
        q[:12] = q[:12].reshape(2, 6, -1).flip(0).reshape(12, -1)
    report = report_of(model, grown)
    assert report.levels["algebra"].word == "differs"
    assert report.levels["training"].word != "not checked"


def test_another_model_of_the_same_shape():
    model = mixer()
    other = meristem.grow(model, {"mlp": "x2"})
    for name, t in tensors(other).items():
        if t.dim() == 2:
            spoil(other, name, float(t.detach().std()), 3)
    report = report_of(model, other)
    assert report.levels["algebra"].word == report.levels["deployment"].word == "differs"


def test_a_saddle_cannot_train():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    plan = grown.plan
    for name, recipe in plan.weights.items():  # every new block zero, on both sides of the product
        fills = {at: type(f)("zero") for at, f in recipe.fills.items()}
        plan.weights[name] = type(recipe)(recipe.name, recipe.axes, fills, recipe.scales)
        old = model.carrier.tensors[name].detach().numpy()
        with torch.no_grad():
            grown.carrier.tensors[name].copy_(torch.from_numpy(plan.weights[name].apply(old)))
    report = report_of(model, grown)
    assert report.levels["algebra"].word in ("bit-exact", "noise-floor")
    assert report.levels["training"].word == "differs"
    assert "receives no gradient" in report.levels["training"].reason


def test_twins_are_locked():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    plan = grown.plan
    with torch.no_grad():
        for name, recipe in plan.weights.items():  # the first new unit twice, and nothing else new
            fills = {at: type(f)("copy", 0, (0,) * len(at)) for at, f in recipe.fills.items()}
            if name == "down.weight":
                continue
            plan.weights[name] = type(recipe)(recipe.name, recipe.axes, fills)
            old = model.carrier.tensors[name].detach().numpy()
            grown.carrier.tensors[name].copy_(torch.from_numpy(plan.weights[name].apply(old)))
        for m in (model, grown):  # readers that do not tell the copies from the originals
            m.carrier.tensors["down.weight"].zero_()
    report = report_of(model, grown)
    assert "stay equal under training" in str(report.levels["training"])
    plan.locked = ["up.weight"]
    told = report_of(model, grown).levels["training"]
    assert told.word != "differs"
    assert "as the plan says" in told.reason


def test_a_weight_that_no_plan_knows():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    grown.carrier.unused["extra"] = torch.zeros(3)
    report = report_of(model, grown)
    assert "extra is in the grown model" in report.levels["algebra"].reason


# -- ONNX -------------------------------------------------------------------------------------------


@pytest.fixture
def grown_file(tmp_path):
    """Path of the original, of the grown file, and the plan between them."""
    path = onnx_file(tmp_path / "m.onnx")
    grown = meristem.grow(meristem.load(path), {"hidden": "x1.5", "mlp": "x2"})
    grown.save(tmp_path / "g.onnx")
    return path, tmp_path / "g.onnx", grown.plan


def _edit(path, change):
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)


def _planned(path, plan):
    loaded = meristem.load(path)
    loaded.plan = plan
    return loaded


@pytest.mark.parametrize("name", ["stem.weight", "norm.weight", "up.bias", "head.weight"])
def test_one_weight_of_a_file(grown_file, name):
    path, target, plan = grown_file

    def change(graph):
        (t,) = [t for t in graph.initializer if t.name == name]
        data = numpy_helper.to_array(t).copy()
        data.flat[0] += 1e-3
        t.CopyFrom(numpy_helper.from_array(data, name))

    _edit(target, change)
    report = meristem.verify(meristem.load(path), _planned(target, plan))
    assert report.levels["algebra"].word == "differs"
    assert name in report.levels["algebra"].reason
    assert meristem.verify(path, target).levels["deployment"].word == "differs"


def test_a_wrong_epsilon_in_a_file(grown_file):
    path, target, plan = grown_file

    def change(graph):
        for node in graph.node:
            for a in node.attribute:
                if a.name == "epsilon":
                    a.f *= 1.5
        for t in graph.initializer:  # where the norm is spelled out
            data = numpy_helper.to_array(t)
            if data.size == 1 and 0 < float(data) < 2e-3:
                t.CopyFrom(numpy_helper.from_array(data * data.dtype.type(1.5), t.name))

    _edit(target, change)
    report = meristem.verify(meristem.load(path), _planned(target, plan))
    assert report.levels["algebra"].word == "differs"


def test_other_outputs(grown_file, tmp_path):
    path, target, _ = grown_file
    other = onnx_file(tmp_path / "o.onnx", seed=1)
    assert meristem.verify(path, other).levels["deployment"].word == "differs"

    def change(graph):
        graph.output.append(graph.value_info.add(name="n"))

    _edit(target, change)
    with pytest.raises(CarrierError, match="give different outputs: y and y, n"):
        meristem.verify(path, target)


def test_an_input_of_another_size(tmp_path):
    path, target = onnx_file(tmp_path / "m.onnx"), onnx_file(tmp_path / "w.onnx")

    def change(graph):
        (t,) = [t for t in graph.initializer if t.name == "stem.weight"]
        data = numpy_helper.to_array(t)
        t.CopyFrom(numpy_helper.from_array(np.concatenate([data, data[:1]]), t.name))
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7

    _edit(target, change)
    with pytest.raises(CarrierError, match=r"x float32\(\w+, 6\) and x float32\(\w+, 7\)"):
        meristem.verify(path, target)
