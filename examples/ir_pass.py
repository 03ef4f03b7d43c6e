"""Growth between other passes of onnx_ir and rewrite rules of onnxscript, on what torch.onnx exports.

python examples/ir_pass.py
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CheckerPass,
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)
from onnxscript.rewriter import RewritePass, pattern

from meristem.demo_model import Decoder, Sizes
from meristem.integrations import GrowModel

# float32; the two models add the same numbers in another order.
TOLERANCE = 1e-4


def run(model: ir.Model, tokens: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: tokens})[0]


def _two_casts(op, x, a, b):
    return op.Cast(op.Cast(x, to=a), to=b)


def _one_cast(op, x, b, **_):
    return op.Cast(x, to=b)


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (2, 12))
    program = torch.onnx.export(Decoder(Sizes()).eval(), (tokens,), dynamo=True, verbose=False)
    assert program is not None
    before = run(program.model, tokens.numpy())
    grow = GrowModel({"mlp": "x2", "heads": "+2", "layers": "+1"}, verify=True)
    passes = Sequential(
        grow,
        RewritePass([pattern.RewriteRule(_two_casts, _one_cast)]),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        CheckerPass(),
    )
    result = passes(program.model)
    plan = grow.plan(program.model)
    assert plan is not None
    print(", ".join(f"{c.name} {c.before} -> {c.after}" for c in plan.changes))
    error = float(np.abs(run(program.model, tokens.numpy()) - before).max())
    print(f"modified: {result.modified}, largest difference {error:.1e}")
    assert error < TOLERANCE


if __name__ == "__main__":
    main()
