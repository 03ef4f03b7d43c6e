"""torch.compile: the module through TorchDynamo and TorchInductor."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import torch

from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.programs import TorchModule
from meristem.verify.runtimes.table import Artifacts, Runtime, Setting, devices

_INSTALL = "a C++ compiler (g++ or clang++; the variable CXX names another)"


def compiler(runtime: str) -> None:
    """Raise RuntimeUnavailable where TorchInductor has no C++ compiler to work with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, by torch
        import_module("torch._inductor.compile_fx")
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeUnavailable(
            f"runtime={runtime!r} finds no C++ compiler; install {_INSTALL}", runtime=runtime
        ) from error


def _open(model: Artifacts, setting: Setting) -> TorchModule:
    compiler(setting.runtime)
    program = model.module(setting.dtype, setting.place)
    compiled: Any = torch.compile(program.module, fullgraph=True, dynamic=program.dynamic)
    program.module = compiled
    return program


ROW = Runtime(
    "torch.compile",
    "torch.compile",
    "module",
    f"torch, {_INSTALL}",
    _open,
    devices("torch.compile"),
)

__all__ = ["ROW", "compiler"]
