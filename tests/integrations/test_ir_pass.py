"""Growth as a pass of onnx_ir: in place, whole or not at all, beside other passes."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx_ir.passes import (
    PassError,
    PassManager,
    PostconditionError,
    PreconditionError,
    Sequential,
    functionalize,
)
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

import meristem
from meristem.integrations import GrowModel
from tests.cli.conftest import mlp_model
from tests.integrations.examples import example, measured


def small():
    return ir.from_proto(mlp_model())


def run(model, x):
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})


X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def text_of(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_objects_stay_themselves():
    model = small()
    graph, inputs, outputs = model.graph, list(model.graph.inputs), list(model.graph.outputs)
    values = {v.name: v for n in graph for v in n.outputs} | dict(graph.initializers)
    (before,) = run(model, X)
    result = Sequential(
        GrowModel({"mlp": "x2"}, verify=True), RemoveUnusedNodesPass(), CheckerPass()
    )(model)
    assert result.modified
    assert result.model is model
    assert model.graph is graph
    assert list(graph.inputs) == inputs
    assert list(graph.outputs) == outputs
    now = {v.name: v for n in graph for v in n.outputs} | dict(graph.initializers)
    assert all(now[name] is value for name, value in values.items())
    assert tuple(graph.initializers["first.up"].shape) == (8, 24)
    np.testing.assert_allclose(run(model, X)[0], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("boundary", ["crop", "grow"])
def test_the_interface_stays_itself(boundary):
    """New operators at the interface, or other sizes of it."""
    model = small()
    inputs, outputs = list(model.graph.inputs), list(model.graph.outputs)
    (before,) = run(model, X)
    sizes = {d.name: "x2" for d in meristem.load(model).dimensions if d.boundary}
    assert GrowModel(sizes, boundary=boundary)(model).modified
    assert list(model.graph.inputs) == inputs
    assert list(model.graph.outputs) == outputs
    CheckerPass()(model)
    x = X if boundary == "crop" else np.pad(X, ((0, 0), (0, 8)))
    np.testing.assert_allclose(run(model, x)[0][:, :8], before, rtol=1e-5, atol=1e-6)
    if boundary == "grow":
        assert tuple(inputs[0].shape)[1] == 16


def test_a_subgraph_reads_the_kept_values():
    """A branch of an If uses values of the graph around it."""
    model = branching()
    before = [run(model, x)[0] for x in (X, -X)]
    assert GrowModel({"mlp": "x2"})(model).modified
    CheckerPass()(model)
    for x, y in zip((X, -X), before, strict=True):
        np.testing.assert_allclose(run(model, x)[0], y, rtol=1e-5, atol=1e-6)


def branching():
    return ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        net (float[3, 8] x) => (float[3, 8] y) {
            zero = Constant <value = float {0}> ()
            total = ReduceSum <keepdims = 0> (x)
            positive = Greater (total, zero)
            h = MatMul (x, up)
            a = Relu (h)
            z = MatMul (a, down)
            y = If (positive) <
                then_branch = yes () => (float[3, 8] p) { p = Identity (z) },
                else_branch = no () => (float[3, 8] q) { q = Neg (z) }
            >
        }""",
        initializers=[
            ir.tensor(np.random.default_rng(1).standard_normal(s).astype(np.float32), name=n)
            for n, s in (("up", (8, 12)), ("down", (12, 8)))
        ],
    )


def test_once_however_often_it_is_run():
    model = small()
    grow = GrowModel({"mlp": "+2"})
    assert PassManager([grow], steps=3)(model).modified
    assert model.graph.initializers["first.up"].shape == (8, 14)
    assert not grow(model).modified
    assert GrowModel({"mlp": "+2"})(model).modified  # another pass is another growth
    assert model.graph.initializers["first.up"].shape == (8, 16)


def test_nothing_grows():
    model = small()
    text = text_of(model)
    assert not GrowModel({"mlp": 12})(model).modified
    assert text_of(model) == text


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ({"mlp": 3}, meristem.SizeError),
        ({"mlp": "x2", "width": "x2"}, meristem.PinnedDimension),
        ({"heads": 3}, meristem.SelectorError),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(sizes, error):
    model = small()
    text = text_of(model)
    with pytest.raises(PreconditionError, match=error.__name__) as found:
        GrowModel(sizes).requires(model)
    assert isinstance(found.value.__cause__, error)
    with pytest.raises(PassError) as wrapped:
        Sequential(GrowModel(sizes))(model)
    assert isinstance(wrapped.value.__cause__, PreconditionError)
    assert text_of(model) == text


def test_a_measurement_that_fails_leaves_the_model_as_it_was(monkeypatch):
    class Refused:
        ok = False

    monkeypatch.setattr(meristem.api, "verify", lambda *_: Refused())
    model = small()
    text = text_of(model)
    with pytest.raises(PostconditionError, match="does not accept"):
        GrowModel({"mlp": "x2"}, verify=True)(model)
    assert text_of(model) == text


def test_ensures_finds_other_weights():
    model = small()
    grow = GrowModel({"mlp": "x2"})
    grow(model)
    weight = model.graph.initializers["first.up"]
    weight.const_value = ir.tensor(weight.const_value.numpy()[:, 1:], name="first.up")
    with pytest.raises(PostconditionError, match=r"first\.up"):
        grow.ensures(model)


def test_functionalize_leaves_the_model_alone():
    model = small()
    text = text_of(model)
    result = functionalize(GrowModel({"mlp": "x2"}))(model)
    assert text_of(model) == text
    assert result.model.graph.initializers["first.up"].shape == (8, 24)


def test_a_plan_of_the_torch_model():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    x = torch.randn(3, 4)
    program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    before = run(program.model, x.numpy())[0]
    assert GrowModel(meristem.plan(meristem.trace(net, (x,)), {"mlp": 9}))(program.model).modified
    assert program.model.graph.initializers["0.weight"].shape == (9, 4)
    np.testing.assert_allclose(run(program.model, x.numpy())[0], before, rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_the_example(capsys):
    example("ir_pass").main()
    found = measured(capsys.readouterr().out)
    assert found
    assert max(found) < 1e-5
