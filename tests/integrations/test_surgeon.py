"""Growth of graphsurgeon graphs."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import meristem
from meristem.integrations import grow_surgeon_graph
from tests.cli.conftest import mlp_model
from tests.integrations.examples import example, measured


def test_a_larger_graph_and_the_given_one_stays():
    small = gs.import_onnx(mlp_model())
    before = {n: t.values for n, t in small.tensors().items() if isinstance(t, gs.Constant)}
    large = grow_surgeon_graph(small, {"mlp@first": "x2"}, verify=True)
    after = {n: t.values for n, t in large.tensors().items() if isinstance(t, gs.Constant)}
    assert after["first.up"].shape == (8, 24)
    np.testing.assert_array_equal(after["first.up"][:, :12], before["first.up"])
    np.testing.assert_array_equal(after["second.up"], before["second.up"])
    assert small.tensors()["first.up"].values.shape == (8, 12)
    assert (large.name, large.opset) == (small.name, small.opset)
    assert [v.name for v in large.inputs + large.outputs] == ["x", "y"]
    large.outputs[0].name = "result"
    onnx.checker.check_model(gs.export_onnx(large.cleanup().toposort()), full_check=True)


def test_a_plan_of_the_file():
    plan = meristem.plan(meristem.load(mlp_model()), {"mlp": 15})
    large = grow_surgeon_graph(gs.import_onnx(mlp_model()), plan)
    assert large.tensors()["second.down"].values.shape == (15, 8)


def test_other_things_are_refused():
    with pytest.raises(meristem.CarrierError, match="import_onnx"):
        grow_surgeon_graph(mlp_model(), {"mlp": "x2"})


def test_the_example(capsys):
    example("surgeon").main()
    found = measured(capsys.readouterr().out)
    assert found
    assert max(found) < 1e-5
