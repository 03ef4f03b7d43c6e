"""meristem grows trained neural networks without changing what they compute.

    import meristem

    model = meristem.trace(module, (tokens,))          # or meristem.load("model.onnx")
    print(model)                                        # the dimensions it found
    grown = meristem.grow(model, {"mlp": "x2", "heads": "+2", "layers": 8})
    report = meristem.verify(model, grown)
    assert report.ok
    module = grown.module()                             # trainable, original parameter names
    grown.save("grown.onnx")

Importing this package imports neither torch nor onnx: everything is loaded at its first use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "trace": "api", "load": "api", "plan": "api", "grow": "api", "verify": "api",
    "Model": "model", "Plan": "rewrite.plan", "Dimension": "rewrite.dimensions",
    "Expansion": "rewrite.expansion", "Report": "verify.report",
    "MeristemError": "rewrite.errors", "SelectorError": "rewrite.errors",
    "SizeError": "rewrite.errors", "PinnedDimension": "rewrite.errors",
    "UnsupportedOperator": "rewrite.errors", "NotPreserved": "rewrite.errors",
    "CarrierError": "rewrite.errors", "RuntimeUnavailable": "rewrite.errors",
    "OutputError": "rewrite.errors",
}  # fmt: skip

# Rooms with public names of their own.
_ROOMS = ("training", "integrations")

__all__ = sorted(_NAMES)


class _Face(ModuleType):
    """The package itself. ``verify`` names both a public verb and a room; here it is always the verb
    (``from meristem.verify.numeric import ...`` still reaches the room)."""

    def __getattr__(self, name: str) -> Any:
        if name in _ROOMS:
            return importlib.import_module(f"meristem.{name}")
        if name not in _NAMES:
            raise AttributeError(f"module 'meristem' has no attribute {name!r}")
        return getattr(importlib.import_module(f"meristem.{_NAMES[name]}"), name)

    @property
    def verify(self) -> Any:
        return importlib.import_module("meristem.api").verify

    @verify.setter
    def verify(self, room: ModuleType) -> None:
        """The import system binds the room here; the verb stays."""

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *__all__]


sys.modules[__name__].__class__ = _Face
