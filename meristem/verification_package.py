"""A package that AOTInductor compiled, on either side: it has no graph, so only outputs compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meristem.model import Model
from meristem.rewrite.errors import CarrierError, RuntimeUnavailable
from meristem.verification_inputs import Samples
from meristem.verification_settings import Forms, Request
from meristem.verification_sides import Subject, subject
from meristem.verify.numeric import Deployed, Interface, deployment, eps_of
from meristem.verify.programs import Program
from meristem.verify.recipes import EPSILON
from meristem.verify.report import Report, not_checked
from meristem.verify.runtimes import CPU, RUNTIMES, Runtime, provider_names
from meristem.verify.runtimes.packaged import Package, is_package

_WHY = "a compiled package has no graph, so it is not known where old coordinates are"


def packaged(*sources: Any) -> bool:
    """Is one of these the path of a compiled package?"""
    return any(_is(s) for s in sources)


def _is(source: Any) -> bool:
    path = Path(source) if isinstance(source, (str, Path)) else None
    return path is not None and path.suffix == ".pt2" and path.is_file() and is_package(path)


def verify_package(
    model: Any,
    grown: Any,
    inputs: Callable[[Subject], Samples],
    wanted: Request,
    *,
    layers: bool = False,
) -> Report:
    """Compare a package with a model, on inputs that the model's signature gives.

    The model runs in torch, or in ONNX Runtime where it comes from a file. The reference is the original
    in float64, or its own run where it is the package.

    Raises CarrierError where both are packages, RuntimeUnavailable where something is asked for that a
    package does not have: it runs as it was compiled.
    """
    if _is(model) and _is(grown):
        raise CarrierError(
            f"{model} and {grown} are both compiled packages, which do not say what they take; give one "
            "of the two as a model, an exported program or an ONNX file"
        )
    other = _other(grown if _is(model) else model)
    path = Path(model if _is(model) else grown)
    row = RUNTIMES["torch" if other.trains else "onnxruntime"]
    _check(path, row, wanted, layers)
    samples = inputs(other)
    with tempfile.TemporaryDirectory(prefix="meristem-verify-") as folder:
        levels = wanted.levels if "optimizations" in wanted.said else ("all",)
        both = []
        for setting in row.settings(None, levels, None):
            run = row.open(Forms(other, Path(folder)), setting)
            package: Program = Package(path, [f.name for f in other.fields()], run.outputs)
            pair = (package, run) if _is(model) else (run, package)
            both.append(Deployed(f"{setting} and the package {path.name}", *pair))
        use = other.evaluates() and not _is(model)
        verdict = deployment(
            other.double() if use else None, both, samples.plain, Interface(),
            eps_of(EPSILON, other.dtypes()), samples.notes,
        )  # fmt: skip
    return Report(
        {"algebra": not_checked(_WHY), "deployment": verdict, "training": not_checked(_WHY)}
    )


def _check(path: Path, row: Runtime, wanted: Request, layers: bool) -> None:
    """Raise RuntimeUnavailable for what is asked for, and a package has no choice of."""
    levels = "optimizations" in wanted.said and not row.levels
    default = (RUNTIMES["onnxruntime"],)  # which is also what nobody asked for
    elsewhere = provider_names(wanted.providers) != [CPU]
    for argument, asked, fact in (
        (
            "runtime",
            wanted.runtimes not in ((row,), default),
            f"the other model is run in {row.name}",
        ),
        ("providers", elsewhere, "the device is the one compiled for"),
        ("dtypes", wanted.dtypes != (None,), "it has the types that it was compiled with"),
        ("optimizations", levels, f"the other model is run in {row.name}, which has no levels"),
        ("layers", layers, "it shows no values on the way"),
    ):
        if asked:
            raise RuntimeUnavailable(
                f"{argument}= does not apply: {path} is a compiled package, which runs as it is, and "
                f"{fact}; leave {argument} out, or compare the model that the package was compiled from",
                path=str(path),
            )


def _other(source: Any) -> Subject:
    from meristem.api import load

    return subject(source if isinstance(source, Model) else load(source))


__all__ = ["packaged", "verify_package"]
