"""Import timm where torchvision is not installed.

timm 1.0.31 imports torchvision for one norm class, which it only tests with ``isinstance``, and
torchvision and Pillow for its data transforms. The models need neither, and a torchvision that
does not match torch breaks transformers, so empty placeholder modules stand in while timm is
imported and are gone afterwards. Import timm through this module:
``from tests.zoo.without_torchvision import timm``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

__all__ = ["timm"]


class _AnyAttribute(type):
    def __getattr__(cls, name: str) -> Any:
        return _anything(name)


class _Placeholder(ModuleType):
    __version__ = "0.0"  # timm compares Pillow's

    def __getattr__(self, name: str) -> Any:
        return _anything(name)


def _anything(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyAttribute(name, (nn.Module,), {})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] not in self.packages or name.startswith("torchvision.models"):
            return None  # timm asks for torchvision.models in a try of its own
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _placeholders() -> Iterator[None]:
    absent = {name for name in ("torchvision", "PIL") if importlib.util.find_spec(name) is None}
    finder = _Finder(absent)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in absent]:
            del sys.modules[name]


with _placeholders():
    import timm
    import timm.models.convnext
    import timm.models.resnet
    import timm.models.swin_transformer
    import timm.models.vision_transformer
