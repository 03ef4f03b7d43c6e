"""What belongs to a run besides growth: optimizers, averages, schedules; what is learned on batches."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "register_state": "states",
    "carry_average": "weights",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'meristem.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"meristem.training.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
