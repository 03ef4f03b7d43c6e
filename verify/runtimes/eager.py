"""torch as it is: the module called operator by operator."""

from __future__ import annotations

from meristem.verify.programs import TorchModule
from meristem.verify.runtimes.table import Artifacts, Runtime, Setting, devices


def _open(model: Artifacts, setting: Setting) -> TorchModule:
    return model.module(setting.dtype, setting.place)


ROW = Runtime("torch", "torch", "module", "torch", _open, devices("torch"))

__all__ = ["ROW"]
