"""Does a grown model cost more in deployment than one that was built at its size?

    .venv/bin/python benchmarks/runtime.py                    # the table of what is stored
    .venv/bin/python benchmarks/runtime.py --run              # measure; some minutes for each family
    .venv/bin/python benchmarks/runtime.py --run --only decoder --pairs 20
    .venv/bin/python benchmarks/runtime.py --report           # write the table into docs/benchmarks.md

Four classes are grown through torch and through their ONNX file, and compared with the same class built
with the larger sizes and exported by torch. Times are one thread's processor time, of pairs of measurements
one after the other; memory is the peak that loading and running add to a process; operators are compared as
written, after ONNX Runtime's optimisations, and after its optimizer of transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "runtime"
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime-gpu")


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="measure, and store what was measured")
    parser.add_argument("--only", help="names of families, with commas between them")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write the table into the page")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are stored")
    given = parser.parse_args()
    if given.run:
        run(given)
    from deploying.pages import table, write

    stored = load(given.results)
    if given.report:
        write(stored, PAGE)
    print(table(stored))


def run(given: argparse.Namespace) -> None:
    import torch
    from deploying.families import FAMILIES
    from deploying.measure import measure

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = set(given.only.split(",")) if given.only else {f.name for f in FAMILIES}
    unknown = wanted - {f.name for f in FAMILIES}
    if unknown:
        sys.exit(f"no family {min(unknown)!r}; there are {', '.join(f.name for f in FAMILIES)}")
    given.results.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        if family.name in wanted:
            found = measure(
                family, pairs=given.pairs, seed=given.seed,
                say=lambda what, name=family.name: sys.stderr.write(f"{name}: {what}\n"),
            )  # fmt: skip
            file = given.results / f"{family.name.replace(', ', '-').replace(' ', '-')}.json"
            file.write_text(json.dumps(found | {"machine": facts()}, indent=1) + "\n")


def facts() -> dict[str, Any]:
    """Versions and the machine, without names or paths."""
    return {
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(), **{n: version(n) for n in PACKAGES},
    }  # fmt: skip


def load(folder: Path) -> list[dict[str, Any]]:
    """What is stored, in the table's order."""
    from deploying.families import FAMILIES

    order = [f.name for f in FAMILIES]
    found = [json.loads(p.read_text()) for p in folder.glob("*.json")]
    return sorted(found, key=lambda r: order.index(r["family"]))


if __name__ == "__main__":
    main()
