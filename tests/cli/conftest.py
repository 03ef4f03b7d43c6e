"""Small models for the command line, and the command itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import meristem
from meristem.cli import app
from meristem.demo_model import Decoder, Sizes

HIDDEN, INNER = 8, 12


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def run(*words: object) -> Result:
    """The command in this process; an exception that escapes it fails the test."""
    done = CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)
    return Result(done.exit_code, done.stdout, done.stderr)


def refused(*words: object, error: str) -> str:
    """The message of a refusal: exit code 2, one line on standard error, nothing on the other."""
    done = run(*words)
    assert done.code == 2, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.startswith(f"meristem: {error}: ")
    assert done.err.count("\n") == 1
    return done.err


def weight(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng([*name.encode()])
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.3, name)


def node(op: str, ins: str, outs: str, place: str, domain: str = "") -> onnx.NodeProto:
    return helper.make_node(op, ins.split(), outs.split(), name=f"/{place}/{op}", domain=domain)


def model(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], out: list[Any] | None = None
) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [info("x", TensorProto.FLOAT, ["batch", HIDDEN])],
        [info("y", TensorProto.FLOAT, ["batch", HIDDEN] if out is None else out)],
        weights,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def mlp_nodes(x: str, y: str, place: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    nodes = [
        node("MatMul", f"{x} {place}.up", f"{place}.a", place),
        node("Relu", f"{place}.a", f"{place}.b", place),
        node("MatMul", f"{place}.b {place}.down", y, f"{place}/out"),
    ]
    return nodes, [weight(f"{place}.up", HIDDEN, INNER), weight(f"{place}.down", INNER, HIDDEN)]


def mlp_model() -> onnx.ModelProto:
    first, a = mlp_nodes("x", "h", "first")
    second, b = mlp_nodes("h", "y", "second")
    return model([*first, *second], [*a, *b])


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """Two MLPs one after the other, from x to y."""
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp_model(), path)
    return path


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with rotary positions and grouped queries, as .pt2. Nobody may write to it."""
    torch.manual_seed(0)
    module = Decoder(Sizes(hidden=16, heads=4, kv_heads=2, qk_dim=6, value_dim=5, mlp=20)).eval()
    tokens = torch.randint(0, 256, (2, 7))
    path = tmp_path_factory.mktemp("decoder") / "decoder.pt2"
    meristem.trace(module, (tokens,), None, None).save(path)
    return path
