"""Operators of files: as written, after ONNX Runtime's optimisations, after its optimizer."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

Counts = dict[str, int]


def operators(path: Path) -> Counts:
    """How often each operator is in a file, functions and branches too."""
    model = onnx.load(str(path), load_external_data=False)
    count: Counter[str] = Counter()
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        _count(nodes, count)
    return dict(sorted(count.items()))


def _count(nodes: Any, count: Counter[str]) -> None:
    for n in nodes:
        count[f"{n.domain}.{n.op_type}".lstrip(".")] += 1
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                _count(a.g.node, count)


def session(path: Path, optimised: Path | None = None) -> Any:
    """A session of one thread with every optimisation; ``optimised`` is where its graph is written."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def optimised(path: Path) -> Counts:
    """Operators of the graph that ONNX Runtime runs on a CPU with every optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        session(path, file)
        return operators(file)


def transformers_optimised(path: Path, kind: str, heads: int, hidden: int) -> Counts:
    """What ``onnxruntime.transformers.optimizer`` fuses in a file, by its own count."""
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    model = optimizer.optimize_model(
        str(path), model_type=kind, num_heads=heads, hidden_size=hidden, opt_level=0, use_gpu=False
    )
    found = model.get_fused_operator_statistics()
    return {n: int(c) for n, c in sorted(found.items()) if c}


__all__ = ["Counts", "operators", "optimised", "session", "transformers_optimised"]
