"""Growth inside what people have: training loops (plain PyTorch, Hugging Face Trainer, Lightning), and
pipelines of passes (torch.fx, torch.export, onnx_ir, onnx, graphsurgeon, Olive, Optimum).

Everything is loaded at its first use, so that only what is used must be installed.
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
    "GrowGraphModule": "fx_pass",
    "grow_program": "programs",
    "GrowModel": "ir_pass",
    "grow_proto": "protos",
    "grow_surgeon_graph": "surgeon",
    "grow_pretrained": "pretrained",
    "main_export": "optimum_export",
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
