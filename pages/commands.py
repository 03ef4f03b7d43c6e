"""The lines that do it again: on the command line, and in Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.plan import Plan

_DEFAULTS = {"method": "preserve", "boundary": "pin", "compensate": "graph", "at": "end", "seed": 0}
_WIDTH = 88
_STREAM = "-"
# A model of the API has no path, nor has one from a pipe, so files have these names.
FILES = {"onnx": ("model.onnx", "grown.onnx"), "torch": ("model.pt2", "grown.pt2")}


def named(typed: tuple[str, str] | None, carrier: str) -> tuple[str, str]:
    """Paths that lines of Python can read in place of what was ``typed``, where that is none."""
    first, second = FILES[carrier]
    if typed is None:
        return first, second
    return (first if typed[0] == _STREAM else typed[0], second if typed[1] == _STREAM else typed[1])


def piped(typed: tuple[str, str] | None, files: tuple[str, str], lines: Sequence[str]) -> list[str]:
    """What has to be known of the files that lines of Python read, and a pipe brought."""
    pairs = zip(files, typed or files, strict=True)
    read = [f for f, t in pairs if t == _STREAM and any(repr(f) in line for line in lines)]
    return [f"what came through the pipe, as the file {f}" for f in dict.fromkeys(read)]


def sizes_of(plan: Plan, dimensions: Sequence[Dimension]) -> dict[str, int | str]:
    """The request behind a plan: a kind where all of its dimensions are asked for the same, else names."""
    out: dict[str, int | str] = {}
    kinds: dict[str, list[Dimension]] = {}
    for d in dimensions:
        kinds.setdefault(d.kind, []).append(d)
    for name, size in plan.sizes.items():
        kind = name.partition("@")[0].partition("#")[0]
        alike = kinds.get(kind, [])
        whole = bool(alike) and all(plan.sizes.get(d.name) == size for d in alike)
        out[kind if whole else name] = size
    return out


def shell(
    files: tuple[str, str], sizes: Mapping[str, Any], options: Mapping[str, Any], *, verified: bool
) -> str:
    """One line for a shell."""
    source, grown = files
    if not sizes:
        words = ["verify", source, grown] if verified else ["inspect", source]
        return shlex.join(["meristem", *words, "--report", "report.html"])
    words = ["meristem", "grow", source, "-o", grown]
    for selector, size in sizes.items():
        words += ["--set", f"{selector}={size}"]
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += [f"--{name}", text]
    return shlex.join([*words, *["--verify"] * verified, "--report", "report.html"])


@dataclass(frozen=True)
class Compared:
    """What a verification of two files was given: its ``options``, the path of its ``plan``, and which of
    the two are compiled ``packages``, that have no model."""

    options: Mapping[str, Any] = field(default_factory=dict)
    plan: str = ""
    packages: tuple[bool, bool] = (False, False)


def python(
    files: tuple[str, str],
    sizes: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    traced: bool,
    verified: bool,
    compared: Compared | None = None,
) -> list[str]:
    """The same in Python; a model that was ``traced`` may be so again. Files that were ``compared`` are
    taken as they stand: growing again would compare another file."""
    source, grown = files
    if compared is not None:
        return _comparison(files, compared)
    load = f"model = meristem.load({source!r})"
    lines = [
        "import meristem",
        "",
        load + ("  # or meristem.trace(module, args)" if traced else ""),
    ]
    if not (sizes or verified):
        return [*lines, 'model.report("report.html")']
    line = _call("grown = meristem.grow", f"model, {dict(sizes)!r}", options)[0]
    if not sizes:
        lines.append(f"grown = meristem.load({grown!r})")
    elif len(line) <= _WIDTH:
        lines.append(line)
    else:
        asked = (f"    {selector!r}: {size!r}," for selector, size in sizes.items())
        lines += [
            "sizes = {",
            *asked,
            "}",
            *_call("grown = meristem.grow", "model, sizes", options),
        ]
    if verified:
        lines.append("report = meristem.verify(model, grown)")
    more = ", verification=report" if verified else ""
    return [*lines, f'grown.report("report.html", before=model{more})']


def _comparison(files: tuple[str, str], compared: Compared) -> list[str]:
    pairs = zip(("model", "grown"), files, compared.packages, strict=True)
    lines = [
        f"{name} = {file!r}  # a compiled package"
        if packed
        else f"{name} = meristem.load({file!r})"
        for name, file, packed in pairs
    ]
    first = ["import meristem", ""]
    if compared.plan:
        first = ["from pathlib import Path", "", "import meristem", ""]
        text = f"Path({compared.plan!r}).read_text()"
        lines.append(f"grown.plan = meristem.Plan.from_json({text})")
    lines += _call("report = meristem.verify", "model, grown", compared.options)
    shown = "model" if compared.packages[1] else "grown"
    before = "" if any(compared.packages) else "before=model, "
    return [*first, *lines, f'{shown}.report("report.html", {before}verification=report)']


def _call(function: str, arguments: str, options: Mapping[str, Any]) -> list[str]:
    """A call in one line, or in as many as it has options where that is too long."""
    given = [f"{name}={value!r}" for name, value in options.items()]
    line = f"{function}({', '.join([arguments, *given])})"
    if len(line) <= _WIDTH or not given:
        return [line]
    return [f"{function}(", f"    {arguments},", *(f"    {g}," for g in given), ")"]


def options_of(plan: Plan) -> dict[str, Any]:
    """Options that are not the default, and the seed always."""
    found = {name: getattr(plan, name) for name in _DEFAULTS}
    return {n: v for n, v in found.items() if n == "seed" or v != _DEFAULTS[n]}


def needs(plan: Plan) -> list[str]:
    """What a repetition needs besides these lines."""
    given = {n for p in plan.steps for n in p.given}
    out = []
    if given:
        out.append(
            f"the values that were given for {', '.join(sorted(given)[:4])}; the plan holds them"
        )
    if plan.learned:
        out.append(
            "what was learned on batches; the plan holds it, so that replaying the plan needs none"
        )
    if any(p.statistics for p in plan.steps):
        out.append("statistics that were measured on batches; the plan holds them")
    if any(d.partition(":")[1] for p in plan.steps for e in p.weights.values() for d in e.donors):
        out.append("the other models that were fused (models=..., or --model)")
    return out


__all__ = [
    "FILES",
    "Compared",
    "named",
    "needs",
    "options_of",
    "piped",
    "python",
    "shell",
    "sizes_of",
]
