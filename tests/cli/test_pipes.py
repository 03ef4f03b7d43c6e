"""Models through pipes: standard input and output carry a model, standard error the words."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from meristem.cli import app
from tests.cli.conftest import Result, mlp_model, refused, run
from tests.cli.test_cli import outputs


def piped(data: bytes, *words: object) -> tuple[Result, bytes]:
    """The command with these bytes as standard input, and the bytes of its standard output."""
    done = CliRunner().invoke(app, [str(w) for w in words], input=data, catch_exceptions=False)
    text = done.stdout_bytes.decode(errors="replace")
    return Result(done.exit_code, text, done.stderr), done.stdout_bytes


def test_a_model_goes_through(mlp, tmp_path):
    plan = tmp_path / "plan.json"
    words = ("grow", "-", "-o", "-", "--set", "mlp=+8", "--save-plan", plan, "--verify")
    done, data = piped(mlp.read_bytes(), *words)
    assert done.code == 0, done
    assert "the same function" in done.err
    assert "wrote standard output" in done.err
    assert {tuple(w.dims) for w in onnx.load_from_string(data).graph.initializer} == {
        (8, 20),
        (20, 8),
    }
    assert {p.name for p in tmp_path.iterdir()} == {"mlp.onnx", "plan.json"}
    for a, b, given in ((mlp, "-", data), ("-", tmp_path / "big.onnx", mlp.read_bytes())):
        (tmp_path / "big.onnx").write_bytes(data)
        checked, _ = piped(given, "verify", a, b, "--plan", plan, "--json")
        assert checked.code == 0, checked
        assert checked.data["levels"]["algebra"]["word"] in ("bit-exact", "noise-floor")
    again, same = piped(mlp.read_bytes(), "grow", "-", "-o", "-", "--plan", plan)
    assert (again.code, same) == (0, data)


def test_a_program_is_known_by_its_content(decoder, tmp_path):
    done, data = piped(decoder.read_bytes(), "grow", "-", "-o", "-", "--set", "mlp=24")
    assert done.code == 0, done
    program = torch.export.load(io.BytesIO(data))
    assert any(tuple(t.shape) == (24, 16) for t in program.state_dict.values())
    seen, _ = piped(data, "inspect", "-", "--json", "--kind", "mlp")
    assert {d["size"] for d in seen.data["dimensions"]} == {24}


def test_real_pipes(mlp, tmp_path):
    """Two processes of the console script, as a shell joins them; the second has no file."""
    code = [sys.executable, "-m", "meristem"]
    first = [*code, "grow", "-", "-o", "-", "--set", "mlp=20"]
    with mlp.open("rb") as file:
        grow = subprocess.Popen(first, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        done = subprocess.run(
            [*code, "grow", "-", "-o", tmp_path / "big.onnx", "--set", "mlp=+1"],
            stdin=grow.stdout, capture_output=True, check=False,
        )  # fmt: skip
        words = grow.communicate()[1].decode()
    assert (grow.returncode, done.returncode) == (0, 0), (words, done.stderr)
    assert "wrote standard output" in words
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    old, new = outputs(mlp, x), outputs(tmp_path / "big.onnx", x)
    np.testing.assert_allclose(old, new, rtol=1e-5, atol=1e-6)


def test_what_differs_is_not_passed_on(mlp, monkeypatch):
    from meristem.backends import onnx_file

    save = onnx_file._serialised

    def worse(model, carrier):
        for tensor in (proto := save(model, carrier)).graph.initializer:
            values = onnx.numpy_helper.to_array(tensor) + 1e-3
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return proto

    monkeypatch.setattr(onnx_file, "_serialised", worse)
    done, data = piped(mlp.read_bytes(), "grow", "-", "-o", "-", "--set", "mlp=20", "--verify")
    assert (done.code, data) == (1, b"")
    assert "nothing was written, because the function differs" in done.err


@pytest.mark.parametrize("words", [("inspect", "-"), ("grow", "-", "-o", "-", "--set", "mlp=20")])
def test_nothing_comes_in(words):
    done, data = piped(b"", *words)
    assert (done.code, data) == (2, b"")
    assert "CarrierError: standard input holds no model" in done.err


def test_what_comes_in_is_no_model():
    done, _ = piped(b"no model", "inspect", "-")
    assert done.code == 2
    assert "CarrierError" in done.err


def test_one_pipe_holds_one_model():
    assert "one model" in refused("verify", "-", "-", error="CarrierError")


def test_results_for_machines_would_mix_with_the_model(mlp):
    done, data = piped(mlp.read_bytes(), "grow", "-", "-o", "-", "--set", "mlp=20", "--json")
    assert (done.code, data) == (2, b"")
    assert "both write to standard output" in done.err


def test_weights_in_a_second_file_stay_where_they_are(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save_model(mlp_model(), path, save_as_external_data=True, size_threshold=0)
    done = run("grow", path, "-o", "-", "--set", "mlp=400")
    assert (done.code, done.out) == (2, "")
    assert "which a pipe cannot carry" in done.err
