"""What a run of `make test-full` measured, as a page: python tests/results.py build/full PART...

The end-to-end tests record their numbers as properties of the junit files; nothing is written here that
is not in them, besides the versions and the machine. A part that failed keeps its record as `.new`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

PACKAGES = ("torch", "transformers", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu")
COLUMNS = {
    "float64": "torch",
    "float64 alone": "torch, alone",
    "float64 dynamic": "torch, dynamic",
    "dynamic 20": "dynamic 20",
    "dynamic 23": "dynamic 23",
    "static 20": "static 20",
    "static 23": "static 23",
}


def page(folder: Path, parts: list[str]) -> str:
    suites = {part: _suite(folder, part) for part in parts}
    cases = [c for suite in suites.values() if suite is not None for c in suite.iter("testcase")]
    out = [
        "# The last `make test-full`",
        "",
        "Written by `tests/results.py` from the run's own records.",
        "",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + f"; {platform.system()} {platform.machine()}, {os.cpu_count()} cores.",
        "",
        "| part | at commit | on | tests | seconds |",
        "|---|---|---|---|---|",
        *(_row(part, suite) for part, suite in suites.items()),
        "",
        *_folders(cases),
        "",
        *_models(cases),
    ]
    return "\n".join(out) + "\n"


def _suite(folder: Path, part: str) -> ElementTree.Element | None:
    """The record of a part: the finished one, else that of a run with failures, else none."""
    for path in (folder / f"{part}.xml", folder / f"{part}.xml.new"):
        if path.exists():
            return ElementTree.parse(path).getroot().find("testsuite")
    return None


def _row(part: str, suite: ElementTree.Element | None) -> str:
    if suite is None:
        return f"| {part} | not run | | | |"
    facts = suite.attrib
    seconds = float(facts["time"])
    return f"| {part} | {facts['name']} | {facts['timestamp'][:10]} | {facts['tests']} | {seconds:.0f} |"


def _state(case: ElementTree.Element) -> str:
    for word in ("failure", "error", "skipped"):
        if case.find(word) is not None:
            return word
    return "passed"


def _folders(cases: list[ElementTree.Element]) -> list[str]:
    states: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for case in cases:
        # A file that is skipped as a whole, or whose worker died, is its name, without a class.
        where = case.attrib["classname"] or case.attrib["name"].replace("/", ".")
        folder = where.split(".")[1]
        states[folder][_state(case)] += 1
        seconds[folder] += float(case.attrib["time"])  # type: ignore[assignment]
    out = ["| tests/ | passed | skipped | failed | seconds |", "|---|---|---|---|---|"]
    for folder, n in sorted(states.items()):
        out.append(
            f"| {folder} | {n['passed']} | {n['skipped']} | {n['failure'] + n['error']} "
            f"| {seconds[folder]:.0f} |"
        )
    wrong = [c for c in cases if _state(c) in ("failure", "error")]
    left = [c for c in cases if _state(c) == "skipped"]
    for title, own in (("Failed", wrong), ("Skipped", left)):
        if own:
            out += ["", f"{title}: " + ", ".join(f"`{c.attrib['name']}`" for c in own) + "."]
    return out


def _models(cases: list[ElementTree.Element]) -> list[str]:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for case in cases:
        for p in case.iter("property"):
            model, _, column = p.attrib["name"].partition(": ")
            rows[model][column] = p.attrib["value"]
    out = [
        "Level 1 through torch: the largest relative error in float64 of all kinds together, of every kind "
        "alone, and of all together with dynamic shapes, recipes evaluated in float64 (limit 1e-10). Level "
        "2 through ONNX files, all kinds together: the grown file's error in ONNX Runtime (CPU) over the "
        "larger of the original's own and 8 eps max|y| (limit 4), by dynamic or static shapes and opset.",
        "",
        "| model | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    out += [
        f"| {model} | " + " | ".join(rows[model].get(c, "") for c in COLUMNS) + " |"
        for model in sorted(rows)
    ]
    return out


if __name__ == "__main__":
    print(page(Path(sys.argv[1]), sys.argv[2:]), end="")
