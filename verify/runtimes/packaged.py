"""AOTInductor: a program compiled ahead of time into a package (.pt2), and such packages as they come."""

from __future__ import annotations

import zipfile
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from meristem.rewrite.errors import CarrierError
from meristem.verify.programs import TorchModule
from meristem.verify.runtimes.compiled import compiler
from meristem.verify.runtimes.table import Artifacts, Runtime, Setting, devices

_INSTALL = "torch, a C++ compiler (g++ or clang++; the variable CXX names another)"


def is_package(path: Path) -> bool:
    """Does the file hold compiled code? Exported programs have the same suffix and do not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/aotinductor/" in f"/{name}" for name in archive.namelist())


def load_package(path: Path) -> Any:
    """The compiled program, called as the traced one was.

    Raises CarrierError where torch cannot load it, as where it was compiled for another machine.
    """
    from torch._inductor import aoti_load_package

    try:
        return aoti_load_package(str(path))
    except Exception as error:  # the loader's errors have no common base
        raise CarrierError(
            f"{path} is a compiled package that cannot be loaded here ({error}); compile it on this "
            "machine with torch._inductor.aoti_compile_and_package",
            path=str(path),
        ) from error


def _open(model: Artifacts, setting: Setting) -> TorchModule:
    from torch._inductor import aoti_compile_and_package

    compiler(setting.runtime)
    called = model.module(setting.dtype, setting.place)
    path = Path(mkdtemp(dir=model.folder)) / "model.pt2"
    program = model.program(setting.dtype, setting.place)
    aoti_compile_and_package(program, package_path=str(path))
    called.module = load_package(path)
    return called


ROW = Runtime("aoti", "AOTInductor", "module", _INSTALL, _open, devices("aoti"))

__all__ = ["ROW", "is_package", "load_package"]
