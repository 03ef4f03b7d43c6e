"""Correct growth passes, on both carriers and every boundary."""

import numpy as np
import pytest
import torch

import meristem
from meristem.rewrite.errors import CarrierError
from meristem.verify.recipes import Recipes
from tests.verify.models import mixer, onnx_file, traced

EVERYTHING = {
    "gpt2": {"mlp": "x1.5", "heads": "x1.5", "qk_dim": "x1.5", "value_dim": "x1.5", "hidden": "x1.5"},
    "llama": {"mlp": "x1.5", "kv_heads": "x2", "hidden": "x1.5", "layers": "+1"},
    "bert": {"mlp": "x2", "heads": "+2", "layers": "+1"},
    "vit": {"hidden": "x1.5", "heads": "x1.5"},
}  # fmt: skip


def words(report: meristem.Report) -> list[str]:
    return [v.word for v in report.levels.values()]


@pytest.mark.parametrize(
    "name",
    [n if n == "vit" else pytest.param(n, marks=pytest.mark.full) for n in EVERYTHING],
)
def test_torch(name):
    model = traced(name)
    report = meristem.verify(model, meristem.grow(model, EVERYTHING[name]), runtime="torch")
    assert report.ok, str(report)
    assert "not checked" not in words(report)
    assert len(report.levels["deployment"].inputs) >= 8
    assert len(report.levels["algebra"].inputs) >= 12


@pytest.mark.full
@pytest.mark.parametrize("boundary", ["crop", "grow"])
def test_boundaries(boundary):
    model = traced("whisper")  # the encoder's stream is an output
    grown = meristem.grow(model, {"hidden": "x1.5"}, boundary=boundary)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert "not checked" not in words(report)


def test_onnx(tmp_path):
    model = meristem.load(onnx_file(tmp_path / "m.onnx"))
    grown = meristem.grow(model, {"hidden": "x1.5", "mlp": "x2"})
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "noise-floor"
    assert report.levels["training"].word == "not checked"
    assert "gradients" in report.levels["training"].reason


def test_two_files_without_a_plan(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    meristem.grow(meristem.load(path), {"mlp": "x2"}).save(tmp_path / "g.onnx")
    report = meristem.verify(path, str(tmp_path / "g.onnx"))
    assert report.ok, str(report)
    assert words(report)[0] == words(report)[2] == "not checked"
    assert "no plan" in report.levels["algebra"].reason


@pytest.mark.full
def test_torch_in_onnx_runtime():
    model = traced("gpt2")
    report = meristem.verify(model, meristem.grow(model, EVERYTHING["gpt2"]))
    assert report.ok, str(report)
    assert "ONNX Runtime CPU" in report.levels["deployment"].reason


def test_a_small_torch_model_in_onnx_runtime():
    model = mixer()
    report = meristem.verify(model, meristem.grow(model, {"mlp": "x2"}))
    assert report.ok, str(report)
    assert "not checked" not in words(report)


def test_inputs_of_the_caller():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    one = (torch.zeros(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.long))
    two = {"tokens": np.ones((2, 4), np.int64), "mask": np.ones((2, 4), np.int64)}
    report = meristem.verify(model, grown, runtime="torch", inputs=[one, two])
    assert report.ok, str(report)
    assert report.levels["algebra"].inputs == ["input 0", "input 1"]
    with pytest.raises(meristem.CarrierError, match="holds 1 tensors, the model takes 2"):
        meristem.verify(model, grown, runtime="torch", inputs=[one[:1]])


def test_low_precision():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    ).bfloat16()
    model = meristem.trace(module, (torch.randn(2, 6, dtype=torch.bfloat16),))
    grown = meristem.grow(model, {"mlp": "x2"})
    assert meristem.verify(model, grown, runtime="torch").ok


def test_verifying_changes_nothing():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    before = {n: t.clone() for n, t in grown.carrier.tensors.items()}
    meristem.verify(model, grown, runtime="torch")
    for name, t in grown.carrier.tensors.items():
        assert torch.equal(t, before[name])
        assert t.grad is None


def test_a_chain_of_growths_is_checked_where_it_can_be():
    model = mixer()
    twice = meristem.grow(meristem.grow(model, {"mlp": "x2"}), {"mlp": "x2"})
    report = meristem.verify(model, twice, runtime="torch")
    assert report.ok, str(report)
    assert "verify step by step" in report.levels["algebra"].reason


@pytest.mark.full
@pytest.mark.parametrize("shapes", [None, "auto"])
def test_an_input_that_grows(shapes, tmp_path):
    """The interface grows, through a file and a second time; old inputs are read at their places."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6)
    ).eval()
    model = meristem.trace(module, (torch.randn(4, 6),), None, shapes)
    grown = meristem.grow(model, {"width@0": 9, "mlp": 12}, boundary="grow")
    assert grown.module()(torch.randn(4, 9)).shape == (4, 6)
    assert meristem.verify(model, grown).ok
    grown.save(tmp_path / "grown.pt2")
    step = meristem.load(tmp_path / "grown.pt2")
    again = meristem.grow(step, {"width@0": 11, "width@2": 9}, boundary="grow")
    assert meristem.verify(step, again).ok


class Masked(torch.nn.Module):
    """Scores of which some are minus infinity."""

    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(6, 8), torch.nn.Linear(8, 7)

    def forward(self, x):
        scores = self.down(torch.relu(self.up(x)))
        return scores.masked_fill(torch.arange(7) > 4, float("-inf"))


@pytest.mark.full
def test_infinities_are_compared():
    torch.manual_seed(0)
    model = meristem.trace(Masked().eval(), (torch.randn(4, 6),))
    grown = meristem.grow(model, {"mlp": 12})
    report = meristem.verify(model, grown)
    assert report.ok
    assert "not checked" not in words(report)
    with torch.no_grad():
        grown.carrier.tensors["down.bias"][0] = float("-inf")
    assert not meristem.verify(model, grown).ok


def test_a_further_use_of_a_shared_tensor_has_its_recipe():
    """In files a tensor that several nodes read has a name for each; copies of blocks read it once more."""
    stored = {"table": np.arange(3.0)}
    recipes = Recipes(stored.__getitem__)
    assert np.array_equal(recipes.wide("table#3"), stored["table"])
    with pytest.raises(CarrierError, match="other is in the grown model"):
        recipes.wide("other#2")
