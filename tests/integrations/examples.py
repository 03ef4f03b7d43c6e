"""The scripts of examples/ as functions, so that a test runs one without a process of its own."""

import importlib.util
import re
from types import ModuleType

from tests.house.tree import ROOT


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", ROOT / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(said: str) -> list[float]:
    """The differences that an example prints behind the word."""
    return [
        float(number)
        for line in said.splitlines() if "difference" in line
        for number in re.findall(r"\d\.\de[-+]\d\d", line.partition("difference")[2])
    ]  # fmt: skip
