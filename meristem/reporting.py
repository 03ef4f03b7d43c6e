"""Model.report: the pages room brought together with models; docs/report.md says what a page shows."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import meristem
from meristem.model import Model
from meristem.rewrite.errors import OutputError
from meristem.writing import check_place

# What a repetition depends on; onnxruntime is one module under two names.
_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
SUFFIXES = (".html", ".htm")


def write_page(model: Model, path: str | Path, **shown: Any) -> Path:
    """Write the page of a model; ``shown`` is what ``page`` takes.

    A page that is there is replaced, at once or not at all. Raises OutputError where ``path`` is no .html,
    or cannot be written.
    """
    path = check_page(path)
    text = page(model, **shown)
    try:
        with tempfile.TemporaryDirectory(prefix=".meristem-", dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_text(text, encoding="utf-8")
            os.replace(written, path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; choose another place", path=str(path)
        ) from error
    return path


def page(
    model: Model,
    *,
    before: Model | None = None,
    verification: Any = None,
    refusal: Exception | None = None,
    request: Mapping[str, Any] | None = None,
    title: str = "",
    command: str = "",
    files: tuple[str, str] | None = None,
    compared: Any = None,
) -> str:
    """The page of a model as HTML: after its growth, where it has a plan.

    ``before`` is the model that grew, ``verification`` the Report of both, ``refusal`` the error of a
    ``request`` that was refused; ``command`` is what made the page, ``files`` what it read and wrote; of
    a verification of two files ``compared`` is what it was given (``pages.commands.Compared``).
    """
    from meristem.pages.page import Content
    from meristem.pages.render import render
    from meristem.tables import notes

    return render(
        Content(
            title=title or _title(model, verification, refusal),
            shown=_side(model),
            before=None if before is None else _side(before),
            plan=model.plan,
            verification=verification,
            refusal=refusal,
            command=command,
            notes=notes(before or model),
            versions=_versions(),
            made=f"{datetime.now(UTC):%Y-%m-%d}",
            request=dict(request or {}),
            files=files,
            compared=compared,
        )
    )


def check_page(path: str | Path) -> Path:
    """What can be known of a page's path before any work; raises OutputError."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise OutputError(
            f"{path}: a report is a page; give a path that ends in .html", path=str(path)
        )
    check_place(path)
    return path


def _side(model: Model) -> Any:
    from meristem.pages.page import Side

    return Side(
        model.graph, model.equations, list(model.stacks.values()), model.dimensions,
        model.parameters, model.side.name,
    )  # fmt: skip


def _title(model: Model, verification: Any, refusal: Exception | None) -> str:
    if refusal is not None:
        return "A growth that was refused"
    if verification is not None:
        return "A growth and its verification" if model.plan else "Two models compared"
    return "A growth" if model.plan else "A model and its dimensions"


def _versions() -> list[tuple[str, str]]:
    out = [("meristem", meristem.__version__), ("Python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            out.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return [*out, ("on", f"{platform.system()} {platform.machine()}")]


__all__ = ["check_page", "page", "write_page"]
