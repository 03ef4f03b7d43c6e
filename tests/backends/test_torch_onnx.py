"""Exporting torch carriers to ONNX: names, dynamic axes, values, nothing left behind on failure."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import meristem
from meristem.backends import torch_onnx
from tests.verify.models import mixer


class Named(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        y = self.fc(x)
        return {"logits": y, "parts": (y.mean(-1), torch.relu(y))}


def test_names_axes_and_values(tmp_path):
    model = meristem.grow(mixer(), {"mlp": "x2"})
    path = model.save(tmp_path / "m.onnx")
    proto = onnx.load(path)
    assert [v.name for v in proto.graph.input] == ["tokens", "mask"]
    assert [v.name for v in proto.graph.output] == ["output"]
    assert all(d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim)
    assert {"up.bias", "down.bias"} <= {t.name for t in proto.graph.initializer}
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    tokens, mask = torch.randint(0, 9, (3, 5)), torch.ones(3, 5, dtype=torch.long)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"tokens": tokens.numpy(), "mask": mask.numpy()})
    want = model.module()(tokens, mask).detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_outputs_are_named_as_the_module_names_them(tmp_path):
    model = meristem.trace(Named(), (torch.randn(2, 4),))
    proto = onnx.load(model.save(tmp_path / "m.onnx"))
    assert [v.name for v in proto.graph.output] == ["logits", "parts_0", "parts_1"]


def test_large_weights_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_onnx, "PROTO_LIMIT", 100)
    path = mixer().save(tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    model = mixer()
    with pytest.raises(meristem.OutputError, match="existing folder"):
        model.save(tmp_path / "no" / "m.onnx")

    def refuse(*_, **__):
        raise RuntimeError("no translation of that")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(meristem.OutputError, match=r"no translation of that; save it as \.pt2"):
        model.save(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
