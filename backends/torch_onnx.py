"""From a torch carrier to an .onnx file, with the names and dynamic axes of the traced module."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from meristem.backends.onnx_file import PROTO_LIMIT, refuse_large
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.errors import OutputError

# What ONNX Runtime has read for longest among those that hold all that is needed.
OPSET = 20


def save_onnx(carrier: TorchCarrier, path: str | os.PathLike[str], *, opset: int = OPSET) -> Path:
    """Export the program with torch.onnx and write it; returns the path.

    Inputs and stored tensors keep their names, dynamic axes their symbols; outputs are named as the
    traced module's results name them (``logits``), else ``output``, ``output_1``. Weights above 2 GB
    go to a file beside it. Nothing is left behind on failure.

    Raises OutputError where the path cannot be written or torch.onnx has no translation.
    """
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise OutputError(
            f"cannot write {target}: give a file name in an existing folder", path=str(target)
        )
    program = onnx_program(carrier, opset)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error}", path=str(target)) from error
    try:
        _write(program, folder, target, _bytes(carrier) > PROTO_LIMIT)
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise OutputError(
            f"{target} was not written ({type(error).__name__}: {error})", path=str(target)
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def onnx_program(carrier: TorchCarrier, opset: int = OPSET) -> Any:
    """torch.onnx's program, which ``save_onnx`` writes; its weights share storage with the carrier.

    Without gradients, under which some attentions have other strides. Raises OutputError where torch.onnx
    has no translation.
    """
    try:
        with torch.no_grad(), _silent():
            program = torch.onnx.export(
                carrier.program, dynamo=True, opset_version=opset, optimize=True, verbose=False
            )
    except Exception as error:  # torch.onnx's errors have no common public base
        raise OutputError(
            f"torch.onnx cannot export this program: {_cause(error)}; save it as .pt2, or replace that "
            "operator in the module and trace again",
            reason=_cause(error),
        ) from error
    _name_outputs(program.model, output_names(carrier))
    return program


def onnx_proto(carrier: TorchCarrier) -> onnx.ModelProto:
    """The same as one message. Raises OutputError where the weights are more than one can hold."""
    refuse_large(_bytes(carrier))
    return onnx_program(carrier).model_proto


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter prints its steps, misses torchvision and deprecates its own calls; its errors are
    raised anyway."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return text if len(text) <= 300 else text[:297] + "..."


def output_names(carrier: TorchCarrier) -> list[str]:
    """Names of the tensor outputs, from the structure that the traced module returns."""
    specs = carrier.program.graph_signature.output_specs
    results = [s for s in specs if s.kind is OutputKind.USER_OUTPUT]
    entry = carrier.program.module_call_graph[0].signature
    paths: list[str] = []
    if entry is not None and entry.out_spec.num_leaves == len(results):
        tree = pytree.tree_unflatten(list(range(len(results))), entry.out_spec)
        keyed, _ = pytree.tree_flatten_with_path(tree)
        paths = ["_".join(_part(k) for k in path) for path, _ in keyed]
    out: list[str] = []
    for i, s in enumerate(results):
        if type(s.arg).__name__ != "TensorArgument":
            continue
        name = paths[i] if i < len(paths) else ""
        if not name or name[0].isdigit():
            name = "output" + (f"_{name or i}" if len(results) > 1 else "")
        out.append(name)
    return out


def _part(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _name_outputs(model: Any, names: list[str]) -> None:
    """Rename graph outputs where the names are free and every output is a value of its own."""
    outputs = list(model.graph.outputs)
    taken = {v.name for n in model.graph.all_nodes() for v in n.outputs}
    taken |= {v.name for v in model.graph.inputs} | set(model.graph.initializers)
    plain = all(v.producer() is not None for v in outputs)
    if len(outputs) != len(names) or not plain or len(set(map(id, outputs))) != len(outputs):
        return
    for value, name in zip(outputs, names, strict=True):
        while name in taken and name != value.name:
            name += "_"
        value.name = name
        taken.add(name)


def _bytes(carrier: TorchCarrier) -> int:
    return sum({t.data_ptr(): t.nbytes for t in carrier.tensors.values()}.values())


def _write(program: Any, folder: Path, target: Path, external: bool) -> None:
    """Write and check in a folder beside the target, then rename."""
    written = folder / target.name
    program.save(str(written), external_data=external)
    onnx.checker.check_model(os.fspath(written))
    for part in sorted(folder.iterdir(), key=lambda p: p == written):  # the model last
        os.replace(part, target.with_name(part.name))


__all__ = ["OPSET", "onnx_program", "onnx_proto", "output_names", "save_onnx"]
