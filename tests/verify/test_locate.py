"""Where two models part: on a correct growth nowhere, whatever grows and however it is compensated."""

import onnx
import pytest

import meristem
from meristem.rewrite.errors import MeristemError
from tests.verify.models import mixer, onnx_file, spoil, traced
from tests.zoo import RELATED, ZOO, inputs

KINDS = {"mlp": "x1.5", "hidden": "x1.5", "heads": "x1.5", "kv_heads": "x2", "channels": "x1.5"}
DEEPER = {**KINDS, "layers": "x2"}
FAST = ("gpt2",)
OTHERS = [pytest.param(n, marks=pytest.mark.full) for n in ZOO if n not in FAST]


def growths(model):
    """The largest requests that the model allows, under either compensation."""
    kinds = {d.kind for d in model.dimensions if not d.pinned}
    for compensate in ("graph", "weights"):
        for wanted in (DEEPER, {k: s for k, s in KINDS.items() if k != "hidden"}):
            sizes = {k: s for k, s in wanted.items() if k in kinds}
            try:
                yield meristem.grow(model, sizes, compensate=compensate)
            except MeristemError:
                continue  # what is refused is tested elsewhere


def layers_of(model, grown, **more):
    report = meristem.verify(model, grown, layers=True, **more)
    assert report.ok, str(report)
    level = report.levels["algebra"]
    (note,) = [n for n in level.notes if "no value on the way differs" in n]
    return level.layers, int(note.split("float64: ")[1].split()[0])


@pytest.mark.parametrize("name", [*FAST, *OTHERS])
def test_nothing_is_named_on_a_correct_growth(name):
    model = traced(name)
    args, kwargs = inputs(name, 2, 7, seed=3)
    found = list(growths(model))
    assert found or name in RELATED
    for grown in found[:: 1 if name not in FAST else 3]:
        given = [(*args, *kwargs.values())]
        layers, compared = layers_of(model, grown, runtime="torch", inputs=given)
        assert not [a for a in layers if a.located]
        assert compared > 20
        assert len({a.place for a in layers}) == len(layers) > 3


def test_nothing_is_named_in_a_file(tmp_path):
    model = meristem.load(onnx_file(tmp_path / "m.onnx"))
    for compensate in ("graph", "weights"):
        grown = meristem.grow(model, {"mlp": "x2"}, compensate=compensate)
        layers, compared = layers_of(model, grown)
        assert compared >= 6
        assert not [a for a in layers if a.located]


def test_stages_are_undone_one_after_another():
    model = traced("gpt2")
    grown = meristem.grow(model, {"mlp": "x1.5", "layers": 3, "experts": 2}, method="upcycle")
    assert len(grown.plan.steps) > 1
    args, kwargs = inputs("gpt2", 2, 7)
    layers, _ = layers_of(model, grown, runtime="torch", inputs=[(*args, *kwargs.values())])
    assert not [a for a in layers if a.located]


def test_an_output_that_another_operator_makes_is_located(tmp_path):
    """Values are paired by name and operator; an output counts whatever makes it."""
    model = meristem.load(onnx_file(tmp_path / "m.onnx"))
    grown = meristem.grow(model, {"mlp": "x2"})
    grown.save(tmp_path / "g.onnx")
    proto = onnx.load(tmp_path / "g.onnx")
    proto.graph.node[-1].output[0] = "exact"
    whole, back = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    proto.graph.node.append(onnx.helper.make_node("Cast", ["exact"], ["whole"], to=whole))
    proto.graph.node.append(onnx.helper.make_node("Cast", ["whole"], ["y"], to=back))
    onnx.save(proto, tmp_path / "g.onnx")
    other = meristem.load(tmp_path / "g.onnx")
    other.plan = grown.plan
    report = meristem.verify(model, other)
    (found,) = [a for a in report.levels["algebra"].layers if a.located]
    assert (found.value, found.op) == ("y", "MatMul (Cast in the grown model)")
    assert 0.1 < found.error < 1.0
    assert f"first differs: {found}" in str(report)


def test_without_a_plan_and_with_other_sizes_nothing_is_claimed():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    spoil(grown, "down.bias", 0.1)
    grown.plan = None
    level = meristem.verify(model, grown, runtime="torch").levels["deployment"]
    assert level.word == "differs"
    assert not level.layers
    assert "no plan, and the weights have other sizes" in level.notes[-1]


def test_a_new_entry_that_should_be_zero_is_located():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    spoil(grown, "down.weight", 0.1, -1)
    report = meristem.verify(model, grown, runtime="torch")
    (found,) = [a for a in report.levels["algebra"].layers if a.located]
    assert (found.place, found.error > 0) == ("down", True)
    assert "down.weight" in found.weights
    assert f"first differs: {found}" in str(report)
