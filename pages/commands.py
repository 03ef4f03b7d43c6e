"""The lines that do it again: on the command line, and in Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.plan import Plan

_DEFAULTS = {"method": "preserve", "boundary": "pin", "compensate": "graph", "at": "end", "seed": 0}
# A model of the API has no path, so files have these names.
FILES = {"onnx": ("model.onnx", "grown.onnx"), "torch": ("model.pt2", "grown.pt2")}


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


def python(
    files: tuple[str, str],
    sizes: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    traced: bool,
    verified: bool,
) -> list[str]:
    """The same in Python; a model that was ``traced`` may be so again."""
    source, grown = files
    load = f"model = meristem.load({source!r})"
    lines = [
        "import meristem",
        "",
        load + ("  # or meristem.trace(module, args)" if traced else ""),
    ]
    if not (sizes or verified):
        return [*lines, 'model.report("report.html")']
    given = "".join(f", {name}={value!r}" for name, value in options.items())
    line = f"grown = meristem.grow(model, {dict(sizes)!r}{given})"
    if not sizes:
        lines.append(f"grown = meristem.load({grown!r})")
    elif len(line) <= 88:
        lines.append(line)
    else:
        asked = (f"    {selector!r}: {size!r}," for selector, size in sizes.items())
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
        out.append("the other models that were fused (models=...)")
    return out


__all__ = ["FILES", "needs", "options_of", "python", "shell", "sizes_of"]
