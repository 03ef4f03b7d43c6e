"""Growth inside training loops and export pipelines that people have.

Everything is loaded at its first use, so that only what a loop needs must be installed.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Run": "run",
    "History": "history",
    "from_config": "rebuilding",
    "TrainerGrowth": "trainer_growth",
    "LightningGrowth": "lightning_growth",
    "MeristemGrowth": "olive_pass",
    "MeristemSurgeon": "olive_pass",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'meristem.integrations' has no attribute {name!r}")
    return getattr(importlib.import_module(f"meristem.integrations.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
