"""The zoo's models as torch.onnx exports them: the real exporter on the real classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from . import KNOWN, build, dynamic_shapes


def needs_positions(name: str, dynamic: bool, opset: int) -> bool:
    """Rotary tables that depend on the sequence length alone make the exporter's opset 23 fusion write
    a file that ONNX Runtime refuses (known.py); explicit position ids avoid it."""
    return dynamic and (name, f"onnx dynamic {opset}") in KNOWN


def export(
    name: str,
    dynamic: bool,
    opset: int,
    folder: Path,
    *,
    optimize: bool = True,
    fresh: bool = False,
) -> Path:
    """Write the file, or take the one that is there."""
    path = folder / f"{name}_{dynamic}_{opset}_{optimize}_{fresh}.onnx"
    if path.exists():
        return path
    positions = needs_positions(name, dynamic, opset)
    module, args, kwargs = build(name, onnx=True, fresh=fresh, positions=positions)
    shapes = dynamic_shapes(name, positions=positions) if dynamic else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, args, kwargs=kwargs, dynamo=True, optimize=optimize, opset_version=opset,
            dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path))
    return path
