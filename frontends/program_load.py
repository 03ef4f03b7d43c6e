"""Loading a torch program: an ExportedProgram in memory or a .pt2 file."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from contextlib import suppress
from importlib.metadata import packages_distributions
from pathlib import Path

import torch
from torch.export import ExportedProgram

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.frontends.trace import functional_carrier
from meristem.rewrite.errors import CarrierError

# Where an archive of torch.export describes a program, and how it names the classes of structures there.
_MODEL = re.compile(r"/models/[^/]*\.json$")
_CLASS = re.compile(r'\\"type\\": \\"([\w.]+)\\"')


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
    _register(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise CarrierError(
            f"{path} cannot be read as a torch program: {_first_line(error)}; it may be cut off or "
            "come from another version of torch: write it again with torch.export.save",
            path=str(path),
        ) from error


def _register(path: Path) -> None:
    """Import what defines the classes of a program's arguments and results, where it is installed.

    torch reads only classes that are registered, which their packages do when they are imported. Nothing is
    imported that no installed distribution holds. Raises CarrierError for a class that stays unknown.
    """
    if not zipfile.is_zipfile(path):
        return  # torch says what is wrong with it
    with zipfile.ZipFile(path) as archive:
        texts = [archive.read(n).decode() for n in archive.namelist() if _MODEL.search(n)]
    known = torch.utils._pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE
    for name in dict.fromkeys(n for text in texts for n in _CLASS.findall(text)):
        module = name.rpartition(".")[0]
        if name not in known and module.partition(".")[0] in packages_distributions():
            with suppress(ImportError):
                importlib.import_module(module)
        if name not in known:
            raise CarrierError(
                f"{path} takes or gives a {name}, which torch does not know here; install what defines it, "
                f"or import {module} before you load the file",
                path=str(path),
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
