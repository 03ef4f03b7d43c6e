"""The lines that do it again: on the command line, and in Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.plan import Plan

_DEFAULTS = {"method": "preserve", "boundary": "pin", "compensate": "graph", "at": "end", "seed": 0}
_FILES = {"onnx": ".onnx", "torch": ".pt2"}


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
    side: str, sizes: Mapping[str, Any], options: Mapping[str, Any], *, verified: bool
) -> list[str]:
    """Lines for a shell; a model of the API has no path, so files have the names of their kinds."""
    source, grown = (f"{name}{_FILES[side]}" for name in ("model", "grown"))
    if not sizes:
        return [shlex.join(["meristem", "inspect", source, "--report", "report.html"])]
    words = ["meristem", "grow", source, "-o", grown]
    for selector, size in sizes.items():
        words += ["--set", f"{selector}={size}"]
    for name, value in options.items():
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words += [f"--{name}", text]
    words += ["--verify"] * verified + ["--report", "report.html"]
    return [shlex.join(words)]


def python(
    side: str, sizes: Mapping[str, Any], options: Mapping[str, Any], *, verified: bool
) -> list[str]:
    """The same in Python."""
    lines = ["import meristem", ""]
    if side == "torch":
        lines.append('model = meristem.trace(module, args)  # or meristem.load("model.pt2")')
    else:
        lines.append('model = meristem.load("model.onnx")')
    if not sizes:
        return [*lines, 'model.report("report.html")']
    asked = [f"    {selector!r}: {size!r}," for selector, size in sizes.items()]
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    short = "{" + ", ".join(line.strip().rstrip(",") for line in asked) + "}"
    line = f"grown = meristem.grow(model, {short}{given})"
    if len(line) <= 88:
        lines.append(line)
    else:
        lines += ["sizes = {", *asked, "}", f"grown = meristem.grow(model, sizes{given})"]
    if verified:
        lines.append("report = meristem.verify(model, grown)")
    more = ", verification=report" if verified else ""
    return [*lines, f'grown.report("report.html", before=model{more})']


def options_of(plan: Plan) -> dict[str, Any]:
    """Options that are not the default, and the seed always."""
    found = {name: getattr(plan, name) for name in _DEFAULTS}
    return {n: v for n, v in found.items() if n == "seed" or v != _DEFAULTS[n]}


def needs(plan: Plan) -> list[str]:
    """What a repetition needs besides these lines."""
    given = {n for p in plan.steps for n in p.given}
    out = []
    if given:
        out.append(f"the values that were given for {', '.join(sorted(given)[:4])}; the plan holds them")
    if plan.learned:
        out.append("what was learned on batches; the plan holds it, so that replaying the plan needs none")
    if any(p.statistics for p in plan.steps):
        out.append("statistics that were measured on batches; the plan holds them")
    if any(d.partition(":")[1] for p in plan.steps for e in p.weights.values() for d in e.donors):
        out.append("the other models that were fused (models=...)")
    return out


__all__ = ["needs", "options_of", "python", "shell", "sizes_of"]
