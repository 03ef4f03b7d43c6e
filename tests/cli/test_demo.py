"""The demonstration runs, keeps its word, and leaves its files."""

from __future__ import annotations

import re

import pytest
import torch

from meristem.demo_model import Decoder
from meristem.demo_text import TIME, standard_library
from meristem.demo_training import curve
from tests.cli.conftest import run

FILES = {"small.onnx", "grown.onnx", "grown-from-onnx.onnx", "plan.json", "trained-on.onnx"}


def test_the_text_is_on_every_machine():
    text = standard_library()
    assert text.files > 50
    assert len(text.train) > 5 * len(text.held_out) > 0
    windows = text.windows(4)
    assert windows.shape == (4, TIME + 1)
    assert torch.equal(windows, text.windows(4))


def test_the_model_is_causal():
    torch.manual_seed(0)
    module = Decoder().eval()
    tokens = torch.randint(0, 256, (1, 9))
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 256
    with torch.no_grad():
        a, b = module(tokens), module(changed)
    torch.testing.assert_close(a[:, :6], b[:, :6])
    assert not torch.allclose(a[:, 6:], b[:, 6:])


def test_a_curve_has_a_bar_for_each_loss():
    assert curve([3.0, 2.0, 1.0, 9.0], 1.0, 3.0) == "█▅▁█"
    assert curve([1.0, 1.0], 1.0, 1.0) == "▁▁"


@pytest.mark.full
def test_the_demonstration(tmp_path):
    folder = tmp_path / "demo"
    done = run("demo", "--out", folder, "--steps", "30")
    assert done.code == 0, done
    assert {p.name for p in folder.iterdir()} == FILES
    assert "the same function, everywhere" in done.out
    losses = re.findall(
        r"held-out loss (?:of the small model|right after growth) +([\d.]+)", done.out
    )
    assert len(losses) == 2
    assert abs(float(losses[0]) - float(losses[1])) < 1e-5
    assert max(map(len, done.out.splitlines())) <= max(80, len(str(folder)) + 40)
