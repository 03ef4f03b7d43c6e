"""Growth of exported programs, before what takes them."""

import pytest
import torch
from torch import nn

import meristem
from meristem.integrations import grow_program
from tests.integrations.examples import example, measured


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def program():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return torch.export.export(net(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def test_signature_and_dynamic_axes_stay(tmp_path):
    small = program()
    large = grow_program(small, {"mlp": "x2"}, verify=True)
    assert {n: tuple(t.shape) for n, t in large.state_dict.items()}["0.weight"] == (12, 4)
    assert {n: tuple(t.shape) for n, t in small.state_dict.items()}["0.weight"] == (6, 4)
    assert large.graph_signature.user_inputs == small.graph_signature.user_inputs
    torch.export.save(large, tmp_path / "large.pt2")
    batch = torch.randn(7, 4)
    with torch.no_grad():
        for found in (large, torch.export.load(tmp_path / "large.pt2")):
            torch.testing.assert_close(found.module()(batch), net()(batch))


def test_a_plan_of_the_onnx_export(tmp_path):
    """What was planned on the file grows the program."""
    small = program()
    meristem.load(small).save(tmp_path / "small.onnx")
    plan = meristem.plan(meristem.load(tmp_path / "small.onnx"), {"mlp": 9})
    assert grow_program(small, plan).state_dict["2.weight"].shape == (2, 9)


def test_other_things_are_refused():
    with pytest.raises(meristem.CarrierError, match="ExportedProgram, not Sequential"):
        grow_program(net(), {"mlp": "x2"})


@pytest.mark.full
@pytest.mark.parametrize("target", ["onnx", "aoti"])
def test_the_example(target, capsys):
    example("programs").main(target)
    found = measured(capsys.readouterr().out)
    assert found
    assert max(found) < 1e-5


@pytest.mark.full
# What ExecuTorch and the libraries below it deprecate is theirs.
@pytest.mark.filterwarnings("ignore")
def test_executorch(capsys):
    """`make test-executorch` installs it; then this is run."""
    pytest.importorskip("executorch.exir")
    example("programs").main("executorch")
    assert max(measured(capsys.readouterr().out)) < 1e-4
