"""The zoo's models as torch.onnx exports them: the real exporter on the real classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from . import KNOWN, build, dynamic_shapes


def needs_positions(name: str, dynamic: bool, opset: int) -> bool:
    """Rotary tables that depend on the sequence length alone make the exporter's opset 23 fusion write
    a file that ONNX Runtime refuses (known.py); explicit position ids avoid it."""
    return dynamic and (name, f"onnx dynamic {opset}") in KNOWN


def program_of(name: str, dynamic: bool, opset: int, *, fresh: bool = False) -> ExportedProgram:
    """The traced class, as the exporter traces it."""
    positions = needs_positions(name, dynamic, opset)
    module, args, kwargs = build(name, onnx=True, fresh=fresh, positions=positions)
    shapes = dynamic_shapes(name, positions=positions) if dynamic else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)


def export(
    name: str,
    dynamic: bool,
    opset: int,
    folder: Path,
    *,
    optimize: bool = True,
    fresh: bool = False,
    program: ExportedProgram | None = None,
) -> Path:
    """Write the file, or take the one that is there. A ``program`` that is at hand is not traced again."""
    path = folder / f"{name}_{dynamic}_{opset}_{optimize}_{fresh}.onnx"
    if path.exists():
        return path
    traced = program or program_of(name, dynamic, opset, fresh=fresh)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            traced, dynamo=True, optimize=optimize, opset_version=opset, verbose=False
        )
    assert written is not None
    written.save(str(path))
    return path
