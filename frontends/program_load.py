"""Loading a torch program: an ExportedProgram in memory or a .pt2 file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.export import ExportedProgram

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.frontends.trace import functional_carrier
from meristem.rewrite.errors import CarrierError


def load_program(source: ExportedProgram | str | os.PathLike[str]) -> TorchCarrier:
    """A carrier for ``source``, which stays as it is; ``carrier.lost`` lists what is not in it.

    A file that ``backends.torch_files.save_program`` wrote keeps its dropouts; other programs keep
    those that their graph names.

    Raises CarrierError for a file that is missing or damaged, and for a program that torch cannot
    make functional.
    """
    program = source if isinstance(source, ExportedProgram) else _read(Path(source))
    try:
        return functional_carrier(program)
    except Exception as error:
        raise CarrierError(
            f"the program cannot be made functional: {_first_line(error)}; export the model again "
            "with this version of torch, or trace the module itself",
        ) from error


def _read(path: Path) -> ExportedProgram:
    if not path.is_file():
        raise CarrierError(f"there is no file {path}; give the path of a .pt2", path=str(path))
    try:
        return torch.export.load(path)
    except Exception as error:
        raise CarrierError(
            f"{path} cannot be read as a torch program: {_first_line(error)}; it may be cut off or "
            "come from another version of torch: write it again with torch.export.save",
            path=str(path),
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
