"""What every runtime is asked for, and what it is handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.programs import Program, TorchModule

LEVELS = ("off", "basic", "all")
"""Optimisations that a runtime makes before it runs: none, those that keep every operator, all."""


@dataclass(frozen=True)
class Setting:
    """One way to run a model: a runtime, where, optimised how much, and in which float type.

    ``place`` is an execution provider's full name or a device of torch, empty where there is no choice.
    ``dtype`` is None for the model's own types.
    """

    runtime: str
    title: str
    place: str = ""
    level: str = ""
    dtype: str | None = None

    def __str__(self) -> str:
        words = f"{self.title} {self.place.removesuffix('ExecutionProvider')}".strip()
        if self.level:
            words += f", optimisations {self.level}"
        return f"{words}, {self.dtype}" if self.dtype else words


class Artifacts(Protocol):
    """A model in the forms that runtimes take; OutputError where it has no such form.

    ``dtype`` is None for the model as it is, else that of a copy.
    """

    folder: Path

    def file(self, dtype: str | None) -> Path:
        """An ONNX file."""
        ...

    def module(self, dtype: str | None, device: str) -> TorchModule:
        """A torch module with the way it is called."""
        ...

    def program(self, dtype: str | None, device: str) -> Any:
        """A torch.export.ExportedProgram, called as ``module`` is."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A row of the table: what a runtime takes, where it can run, and what to install for it.

    ``open`` raises RuntimeUnavailable where the runtime, the provider or the device is not there, and the
    runtime's own errors where it refuses the model.
    """

    name: str
    title: str
    takes: str  # "file" or "module"
    install: str
    open: Callable[[Artifacts, Setting], Program]
    places: Callable[[Any], list[str]]
    levels: bool = False

    def settings(self, providers: Any, levels: tuple[str, ...], dtype: str | None) -> list[Setting]:
        """Every way to run that is asked for."""
        return [
            Setting(self.name, self.title, place, level, dtype)
            for place in self.places(providers)
            for level in (levels if self.levels else ("",))
        ]


def nowhere(providers: Any) -> list[str]:
    """A runtime that runs in one place only."""
    return [""]


def devices(runtime: str) -> Callable[[Any], list[str]]:
    """The devices of torch that providers stand for."""
    from meristem.verify.runtimes.providers import provider_names

    known = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}

    def places(providers: Any) -> list[str]:
        names = provider_names(providers)
        unknown = [n for n in names if n not in known]
        if unknown:
            raise RuntimeUnavailable(f"runtime={runtime!r} has no {unknown[0]}; give cpu or cuda")
        return [known[n] for n in names]

    return places


__all__ = ["LEVELS", "Artifacts", "Runtime", "Setting", "devices", "nowhere"]
