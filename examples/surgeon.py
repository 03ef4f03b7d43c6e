"""Growth of an onnx_graphsurgeon graph, between edits as people make them for TensorRT.

python examples/surgeon.py
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import torch

from meristem.demo_model import Decoder, Sizes
from meristem.integrations import grow_surgeon_graph

# float32; the two models add the same numbers in another order.
TOLERANCE = 1e-4


def run(model: onnx.ModelProto, tokens: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: tokens})[0]


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (2, 12))
    program = torch.onnx.export(Decoder(Sizes()).eval(), (tokens,), dynamo=True, verbose=False)
    assert program is not None
    small = program.model_proto
    graph = gs.import_onnx(small)
    graph.outputs[0].name = "logits"
    graph = grow_surgeon_graph(graph, {"mlp": "x2", "heads": "+2"})
    graph.cleanup().toposort()
    large = gs.export_onnx(graph)
    onnx.checker.check_model(large, full_check=True)
    error = float(np.abs(run(large, tokens.numpy()) - run(small, tokens.numpy())).max())
    print([v.name for v in graph.outputs], f"largest difference {error:.1e}")
    assert error < TOLERANCE


if __name__ == "__main__":
    main()
