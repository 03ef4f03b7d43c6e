"""Writing torch results: a .pt2 program, a state dict."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.export import ExportedProgram

from meristem.carriers.torch_carrier import MARK, TorchCarrier, copied
from meristem.rewrite.errors import CarrierError, OutputError


def state_dict(carrier: TorchCarrier) -> dict[str, torch.Tensor]:
    """What the source module's ``state_dict`` names, at the carrier's sizes.

    Tied names are all there and share one tensor; unused weights keep their size; buffers that are
    not persistent are left out. An instance of the original class with these sizes loads it
    strictly.
    The tensors share storage with the program, as those of a module's ``state_dict`` do.
    """
    own = {name: t.detach() for name, t in carrier.program.state_dict.items()}
    return own | {name: t.detach() for name, t in carrier.unused.items() if name not in own}


def fill(carrier: TorchCarrier, weights: Mapping[str, torch.Tensor]) -> None:
    """Put other values into the stored tensors, in their own types.

    Raises CarrierError where a name is missing, unknown, or of another shape; then nothing has changed.
    """
    own = state_dict(carrier)
    odd = sorted(own.keys() ^ weights.keys())
    wrong = [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
    if odd or wrong:
        name = (odd or sorted(wrong))[0]
        raise CarrierError(
            f"the weights do not fit: {name} is "
            + (
                "only on one side"
                if odd
                else f"{tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            )
            + "; give the state dict of a module of this growth",
            weight=name,
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def save_program(carrier: TorchCarrier, path: str | os.PathLike[str]) -> Path:
    """Write the program as a .pt2 that ``torch.export.load`` reads; returns the path.

    An existing file is replaced whole or not at all.

    Raises OutputError where the path cannot be written or torch cannot serialise the program.
    """
    return _write(
        Path(path), ".pt2", lambda name: torch.export.save(exported_program(carrier), name)
    )


def save_weights(carrier: TorchCarrier, path: str | os.PathLike[str]) -> Path:
    """Write ``state_dict`` as .safetensors; returns the path.

    The format cannot share storage: tied names are written once each, so that a strict load finds
    them all. Raises OutputError as ``save_program`` does.
    """

    def write(name: str) -> None:
        seen: set[object] = set()
        tensors = {}
        for key, t in state_dict(carrier).items():
            where = t.untyped_storage().data_ptr()
            tensors[key] = (
                t.clone(memory_format=torch.contiguous_format)
                if (where in seen or not t.is_contiguous())
                else t
            )
            seen.add(where)
        save_file(tensors, name, metadata={"format": "pt"})

    return _write(Path(path), ".safetensors", write)


def _write(path: Path, suffix: str, write: Callable[[str], object]) -> Path:
    """Write beside the target, then rename: nothing is overwritten by a failure."""
    if path.suffix != suffix:
        raise OutputError(f"{path.name} is to be a {suffix} file; name it so", path=str(path))
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the path of a file", path=str(path))
    try:
        handle, name = tempfile.mkstemp(suffix, f".{path.stem}.", path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; choose a folder that exists and can be "
            "written",
            path=str(path),
        ) from error
    try:
        write(name)
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except Exception as error:
        raise OutputError(
            f"{path} was not written: {error}; the model in memory is untouched", path=str(path)
        ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    return path


def exported_program(carrier: TorchCarrier) -> ExportedProgram:
    """The program for users and files; it shares the tensors of the carrier.

    Dropouts are dropouts again (inactive ones: it is an eval program) and probabilities of
    attention weights are metadata of their nodes, so that whoever loads the program finds them.
    """
    program = carrier.program
    module = copied(program)
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        fused = "scaled_dot_product_attention" in str(node.target)
        p = carrier.dropouts.get(node.name, 0.0)
        if p and not fused:
            node.target = torch.ops.aten.dropout.default
            node.args, node.kwargs = (node.args[0], p, False), {}
        custom = {k: v for k, v in (node.meta.get("custom") or {}).items() if k != MARK}
        if p or fused:
            custom[MARK] = p
        node.meta.pop("custom", None)
        if custom:
            node.meta["custom"] = custom
    module.recompile()
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=program.state_dict,
        range_constraints=copy.deepcopy(program.range_constraints),
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=[program.verifier],
    )


def _mode(path: Path) -> int:
    """Permissions of the file that is replaced, or those a new file gets."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
