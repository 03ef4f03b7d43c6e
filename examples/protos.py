"""Growth of an onnx.ModelProto whose weights stand in a file of their own.

python examples/protos.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from meristem.demo_model import Decoder, Sizes
from meristem.integrations import grow_proto

# float32; the two models add the same numbers in another order.
TOLERANCE = 1e-4


def run(model: onnx.ModelProto | Path, tokens: np.ndarray) -> np.ndarray:
    source = model if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tokens})[0]


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (2, 12))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        program = torch.onnx.export(Decoder(Sizes()).eval(), (tokens,), dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=True)
        small = onnx.load(path, load_external_data=False)
        large = grow_proto(small, {"mlp": "x2", "hidden": "x1.5"}, base_dir=folder)
        onnx.checker.check_model(large, full_check=True)
        error = float(np.abs(run(large, tokens.numpy()) - run(path, tokens.numpy())).max())
    count = sum(int(np.prod(w.dims)) for w in large.graph.initializer)
    print(f"{count:,} stored numbers in one message, largest difference {error:.1e}")
    assert error < TOLERANCE


if __name__ == "__main__":
    main()
