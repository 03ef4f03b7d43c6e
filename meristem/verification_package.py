"""A package that AOTInductor compiled, on either side: it has no graph, so only outputs compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meristem.model import Model
from meristem.rewrite.errors import CarrierError
from meristem.verification_inputs import Samples
from meristem.verification_settings import Forms
from meristem.verification_sides import Subject, subject
from meristem.verify.numeric import Deployed, Interface, deployment, eps_of
from meristem.verify.programs import Program
from meristem.verify.recipes import EPSILON
from meristem.verify.report import Report, not_checked
from meristem.verify.runtimes import RUNTIMES
from meristem.verify.runtimes.packaged import Package, is_package

_WHY = "a compiled package has no graph, so it is not known where old coordinates are"


def packaged(*sources: Any) -> bool:
    """Is one of these the path of a compiled package?"""
    return any(_is(s) for s in sources)


def _is(source: Any) -> bool:
    path = Path(source) if isinstance(source, (str, Path)) else None
    return path is not None and path.suffix == ".pt2" and path.is_file() and is_package(path)


def verify_package(model: Any, grown: Any, inputs: Callable[[Subject], Samples]) -> Report:
    """Compare a package with a model, on inputs that the model's signature gives.

    The model runs in torch, or in ONNX Runtime where it comes from a file. The reference is the original
    in float64, or its own run where it is the package.

    Raises CarrierError where both are packages.
    """
    if _is(model) and _is(grown):
        raise CarrierError(
            f"{model} and {grown} are both compiled packages, which do not say what they take; give one "
            "of the two as a model, an exported program or an ONNX file"
        )
    other = _other(grown if _is(model) else model)
    path = Path(model if _is(model) else grown)
    samples = inputs(other)
    with tempfile.TemporaryDirectory(prefix="meristem-verify-") as folder:
        row = RUNTIMES["torch" if other.trains else "onnxruntime"]
        setting = row.settings(None, ("all",), None)[0]
        run = row.open(Forms(other, Path(folder)), setting)
        package: Program = Package(path, [f.name for f in other.fields()], run.outputs)
        pair = (package, run) if _is(model) else (run, package)
        words = f"{setting} and the package {path.name}"
        both = [Deployed(words, *pair)]
        use = other.evaluates() and not _is(model)
        verdict = deployment(
            other.double() if use else None, both, samples.plain, Interface(),
            eps_of(EPSILON, other.dtypes()), samples.notes,
        )  # fmt: skip
    return Report(
        {"algebra": not_checked(_WHY), "deployment": verdict, "training": not_checked(_WHY)}
    )


def _other(source: Any) -> Subject:
    from meristem.api import load

    return subject(source if isinstance(source, Model) else load(source))


__all__ = ["packaged", "verify_package"]
