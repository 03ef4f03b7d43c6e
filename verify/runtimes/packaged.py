"""AOTInductor: a program compiled ahead of time into a package (.pt2), and such packages as they come."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.programs import TorchModule, exact_products, to_numpy
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

    # otherwise tensors of another type or size are read as if they were the right ones
    os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
    try:
        return aoti_load_package(str(path))
    except Exception as error:  # the loader's errors have no common base
        raise CarrierError(
            f"{path} is a compiled package that cannot be loaded here ({error}); compile it on this "
            "machine with torch._inductor.aoti_compile_and_package",
            path=str(path),
        ) from error


class Package:
    """A package from a file. ``inputs`` are the names of its inputs, in order, and ``outputs`` of what it
    gives."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.loaded, self.inputs, self.outputs = load_package(path), inputs, list(outputs)

    def __call__(self, sample: Sample) -> list[Array]:
        arrays = (np.ascontiguousarray(sample.arrays[n]) for n in self.inputs)
        with exact_products():
            got = self.loaded.loader.run([torch.from_numpy(a.copy()) for a in arrays])
        return [to_numpy(t) for t in got]


def _open(model: Artifacts, setting: Setting) -> TorchModule:
    compiler(setting.runtime)
    from torch._inductor import aoti_compile_and_package

    called = model.module(setting.dtype, setting.place)
    path = Path(mkdtemp(dir=model.folder)) / "model.pt2"
    program = model.program(setting.dtype, setting.place)
    with exact_products():  # kernels are chosen by it
        aoti_compile_and_package(program, package_path=str(path))
    called.module = load_package(path)
    return called


ROW = Runtime("aoti", "AOTInductor", "module", _INSTALL, _open, devices("aoti"))

__all__ = ["ROW", "Package", "is_package", "load_package"]
