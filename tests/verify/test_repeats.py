"""What draws random numbers, and what has no entries, is not compared, and never passes for the same."""

import numpy as np
import pytest
import torch
from onnx import helper, load, numpy_helper, save

import meristem
from meristem.verify.inputs import Sample
from meristem.verify.numeric import Deployed, Interface, algebra, deployment
from tests.verify.models import mixer, onnx_file, spoil

OTHER = "the original gives other numbers each time"


class Noisy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)

    def forward(self, x):
        y = self.down(torch.relu(self.up(x)))
        return y + torch.randn_like(y)


def test_a_program_that_draws_is_not_checked_whether_right_or_wrong():
    torch.manual_seed(0)
    model = meristem.trace(Noisy().eval(), (torch.randn(2, 4),))
    grown = meristem.grow(model, {"mlp": "x2"})
    report = meristem.verify(model, grown, runtime="torch")
    assert not report.ok
    for name, level in report.levels.items():
        assert level.word == "not checked", name
        assert OTHER in level.reason
    spoil(grown, "down.weight", 1.0)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word == "differs"  # by its stored weights
    assert report.levels["deployment"].word == "not checked"
    grown.plan = None
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["deployment"].word == "not checked"
    assert not report.ok


def _noise(kind):
    """Nodes behind ``y0``, and their constants."""
    if kind == "normal":
        return [
            helper.make_node("RandomNormalLike", ["y0"], ["noise"]),
            helper.make_node("Add", ["y0", "noise"], ["y"]),
        ], []
    constants = [
        numpy_helper.from_array(np.float32(0.3), "ratio"),
        numpy_helper.from_array(np.array(True), "training"),
    ]
    return [helper.make_node("Dropout", ["y0", "ratio", "training"], ["y"])], constants


@pytest.mark.parametrize("kind", ["normal", "dropout"])
def test_a_file_that_draws(tmp_path, kind):
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        proto = load(onnx_file(path))
        nodes, constants = _noise(kind)
        proto.graph.node[-1].output[0] = "y0"
        proto.graph.node.extend(nodes)
        proto.graph.initializer.extend(constants)
        for t in proto.graph.initializer:
            if t.name == "head.weight" and path is paths[1]:
                t.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(t), t.name))
        save(proto, path)
    for other in paths:
        report = meristem.verify(paths[0], other)
        assert not report.ok
        assert report.levels["deployment"].word == "not checked"
        assert OTHER in report.levels["deployment"].reason
        assert not report.levels["deployment"].differences


class Fixed:
    """A program that gives what a function of the number of its run says."""

    outputs = ("y",)

    def __init__(self, numbers):
        self.numbers, self.runs = numbers, -1

    def __call__(self, sample):
        self.runs += 1
        return [sample.arrays["x"] + np.float32(self.numbers(self.runs))]


def run(original, grown, reference=None, count=4):
    samples = [Sample(f"{i}", {"x": np.ones((2, 3), np.float32)}) for i in range(count)]
    settings = [Deployed("one", original, grown)]
    return deployment(reference, settings, samples, Interface(), 2.0**-23)


def test_one_that_varies_later_is_seen_where_its_own_error_grows():
    """The first input is equal twice; a later one is off, which would grant as much to the grown model."""
    same = Fixed(lambda run: 0.0)
    late = run(Fixed(lambda run: float(run == 3)), Fixed(lambda run: 1.0), same)
    assert late.word == "not checked"
    assert OTHER in late.reason
    assert run(Fixed(lambda run: 0.0), Fixed(lambda run: 0.0), same).word == "bit-exact"
    assert run(Fixed(lambda run: 0.0), Fixed(lambda run: 1.0), same).word == "differs"


def test_rounding_that_varies_is_compared():
    """Atomic sums on a device give other last bits each time."""
    wobbles = Fixed(lambda run: (run % 2) * 2.0**-22)
    assert run(wobbles, Fixed(lambda run: 0.0), Fixed(lambda run: 0.0)).word == "noise-floor"


def test_algebra_of_a_reference_that_varies_later():
    samples = [Sample(f"{i}", {"x": np.ones((2, 3))}) for i in range(3)]
    varies = Fixed(lambda run: float(run == 2))
    verdict = algebra(varies, Fixed(lambda run: 0.0), samples, Interface())
    assert verdict.word == "not checked"


def test_inputs_without_entries_compare_nothing():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    empty = [{n: np.zeros((0, 5), np.int64) for n in ("tokens", "mask")}]
    report = meristem.verify(model, grown, runtime="torch", inputs=empty)
    assert not report.ok
    for level in report.levels.values():
        assert level.word == "not checked"
    assert "no output has an entry" in report.levels["deployment"].reason


class Two(Fixed):
    outputs = ("y", "z")

    def __call__(self, sample):
        return [*super().__call__(sample), np.zeros((0, 3), np.float32)]


def test_one_output_without_entries_is_said():
    pair = (Two(lambda run: 0.0), Two(lambda run: 0.0))
    found = run(*pair)
    assert found.word == "bit-exact"
    assert [m.what for m in found.measures] == ["y (one)"]
    assert any("output z has no entry on any input" in n for n in found.notes)
    samples = [Sample("0", {"x": np.ones((2, 3))})]
    assert any("output z" in n for n in algebra(*pair, samples, Interface()).notes)
