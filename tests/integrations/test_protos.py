"""Growth of ModelProtos, and everything else that models are loaded from."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
import torch

import meristem
from meristem.integrations import grow_proto
from tests.cli.conftest import mlp_model
from tests.integrations.examples import example, measured


def shapes(model):
    return {w.name: tuple(w.dims) for w in model.graph.initializer}


def test_a_larger_model_and_the_given_one_stays():
    small = mlp_model()
    text = small.SerializeToString(deterministic=True)
    large = grow_proto(small, {"mlp@first": "x2"}, verify=True)
    onnx.checker.check_model(large, full_check=True)
    assert shapes(large)["first.up"] == (8, 24)
    assert shapes(large)["second.up"] == (8, 12)
    assert small.SerializeToString(deterministic=True) == text


def test_external_data(tmp_path, monkeypatch):
    """They are read from their folder, and are inside afterwards; without the folder it is refused."""
    path = tmp_path / "model" / "small.onnx"
    path.parent.mkdir()
    onnx.save_model(
        mlp_model(), path, save_as_external_data=True, size_threshold=0, location="w.bin"
    )
    monkeypatch.chdir(tmp_path)
    outside = onnx.load(path, load_external_data=False)
    with pytest.raises(meristem.CarrierError, match="load_external_data_for_model"):
        grow_proto(outside, {"mlp": "x2"})
    with pytest.raises(meristem.CarrierError, match="cannot be read from"):
        grow_proto(outside, {"mlp": "x2"}, base_dir=tmp_path)
    large = grow_proto(outside, {"mlp@first": "x2"}, base_dir=path.parent)
    assert {w.data_location for w in large.graph.initializer} == {onnx.TensorProto.DEFAULT}
    kept = {w.name: onnx.numpy_helper.to_array(w) for w in large.graph.initializer}
    given = {w.name: onnx.numpy_helper.to_array(w) for w in mlp_model().graph.initializer}
    np.testing.assert_array_equal(kept["second.up"], given["second.up"])
    np.testing.assert_array_equal(kept["first.up"][:, :12], given["first.up"])
    assert outside.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL


def test_what_no_message_can_hold_is_refused(monkeypatch):
    from meristem.backends import onnx_file

    monkeypatch.setattr(onnx_file, "PROTO_LIMIT", 1000)
    with pytest.raises(meristem.OutputError, match="save the grown model") as found:
        grow_proto(mlp_model(), {"mlp": "x2"})
    assert found.value.size == 4 * 8 * 24 * 4


def test_other_things_are_refused():
    with pytest.raises(meristem.CarrierError, match=r"not Model; meristem\.load"):
        grow_proto(ir.from_proto(mlp_model()), {"mlp": "x2"})


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()


@pytest.mark.parametrize(
    "form", ["path", "text", "proto", "ir", "gs", "program", "onnx program", "pt2"]
)
def test_every_form_of_a_model_is_loaded(form, tmp_path):
    """The contract's sources of `load`: the same dimensions, and the source stays as it is."""
    x = torch.randn(3, 4)
    program = torch.export.export(net(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
    proto = onnx_program.model_proto
    forms = {
        "path": lambda: str(onnx_program.save(tmp_path / "m.onnx") or tmp_path / "m.onnx"),
        "pt2": lambda: torch.export.save(program, tmp_path / "m.pt2") or tmp_path / "m.pt2",
        "proto": lambda: proto,
        "ir": lambda: onnx_program.model,
        "gs": lambda: gs.import_onnx(proto),
        "program": lambda: program,
        "onnx program": lambda: onnx_program,
        "text": lambda: str(onnx.save(proto, tmp_path / "m.textproto") or tmp_path / "m.textproto"),
    }
    model = meristem.load(forms[form]())
    assert next((d.kind, d.size) for d in model.dimensions if d.growable) == ("mlp", 6)
    grown = meristem.grow(model, {"mlp": "x2"})
    assert tuple(grown.state_dict()["0.weight"].shape) == (12, 4)
    assert tuple(program.state_dict["0.weight"].shape) == (6, 4)
    assert tuple(onnx_program.model.graph.initializers["0.weight"].shape) == (6, 4)


@pytest.mark.parametrize("how", ["module", "symbolic", "exported"])
def test_every_form_of_a_module_is_traced(how):
    x = torch.randn(3, 4)
    module = {
        "module": net,
        "symbolic": lambda: torch.fx.symbolic_trace(net()),
        "exported": lambda: torch.export.export(net(), (x,)).module(),
    }[how]()
    grown = meristem.grow(meristem.trace(module, (x,)), {"mlp": "x2"})
    with torch.no_grad():
        torch.testing.assert_close(grown.module()(x), net()(x))


def test_an_exported_part_of_a_module_is_traced_in_eval_mode():
    """It refuses train() and eval(); the rest of the module must be switched all the same."""
    x = torch.randn(3, 4)
    part = torch.export.export(net(), (x,)).module()
    whole = torch.nn.Sequential(part, torch.nn.Dropout(0.9), torch.nn.Linear(2, 3))
    whole.training = whole[1].training = True
    model = meristem.trace(whole, (x,))
    assert any("train mode" in note for note in model.carrier.lost)
    found = meristem.grow(model, {"mlp": "x2"}).module()
    assert whole[1].training
    whole[1].training = False
    with torch.no_grad():
        torch.testing.assert_close(found(x), whole(x))


def test_the_example(capsys):
    example("protos").main()
    found = measured(capsys.readouterr().out)
    assert found
    assert max(found) < 1e-5
