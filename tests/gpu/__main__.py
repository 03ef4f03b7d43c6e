"""Correct growths verified with an accelerator's provider: placement, errors and latencies as a page.

``python -m tests.gpu [--provider cuda] [FAMILY ...]``; without the provider the same on the CPU, and the
first line says so. Exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import meristem
from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.inputs import Sample
from meristem.verify.precision import copy_onnx
from meristem.verify.runtimes import CPU, Session, provider_names
from tests.verify.families import FAMILIES, grown_of

DTYPES = ("float32", "float16", "bfloat16")
RUNS, WARM = 20, 3
SAME = ("bit-exact", "noise-floor")


def provider_of(word: str) -> tuple[str, str]:
    """The provider to use, and why it is not the one that was asked for."""
    wanted = provider_names(word)[-1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        value = onnx.helper.make_tensor_value_info
        one = ["x"], ["y"]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", *one)], "probe",
            [value("x", onnx.TensorProto.FLOAT, ["n"])], [value("y", onnx.TensorProto.FLOAT, ["n"])],
        )  # fmt: skip
        opset = [onnx.helper.make_opsetid("", 20)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
        try:
            session = Session(path, wanted, profile=Path(folder))
            session(Sample("probe", {"x": np.ones(64, np.float32)}))
            session.placement("probe", "probe")
        except RuntimeUnavailable as error:
            return CPU, str(error)
    return wanted, ""


def headline(provider: str, why: str) -> list[str]:
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    if provider == CPU and why:
        first = (
            "# The verification suite on the CPU provider: no accelerator here, not yet run on CUDA"
        )
    else:
        first = f"# The verification suite on {provider}{f', {card}' if card else ''}"
    versions = [f"{n} {metadata.version(n)}" for n in ("torch", "onnx")]
    versions.append(f"onnxruntime {sys.modules['onnxruntime'].__version__}")
    lines = [
        first,
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {', '.join(versions)}.",
    ]
    return [*lines, "", f"{why.partition(';')[0]}."] if why else lines


def table(title: str, columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["", f"## {title}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(r)} |" for r in rows]


def latency(path: Path, provider: str, sample: Sample) -> float:
    """The median of a run in milliseconds, from and to the host."""
    session = Session(path, provider)
    times = []
    for i in range(WARM + RUNS):
        start = time.perf_counter()
        session(sample)
        if i >= WARM:
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def latencies(name: str, model: Any, grown: Any, provider: str, folder: Path) -> list[list[str]]:
    """One row for each float type that the provider takes."""
    from meristem.verification_sides import subject

    sample = subject(model).traced()
    rows = []
    for dtype in DTYPES:
        row = [name, dtype]
        for which, one in (("original", model), ("grown", grown)):
            path = folder / f"{which}.onnx"
            if not path.exists():
                one.save(path)
            copy = copy_onnx(path, folder / f"{which}.{dtype}.onnx", dtype)
            try:
                row.append(f"{latency(copy, provider, sample):.2f}")
            except RuntimeUnavailable:
                raise
            except Exception:  # the error table says what the runtime refuses
                row.append("refused")
        rows.append(row)
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=[])
    parser.add_argument("--provider", default="cuda")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    provider, why = provider_of(given.provider)
    print("\n".join(headline(provider, why)))
    placed, errors, times, ok = [], [], [], True
    for name in given.families or FAMILIES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        model, grown = grown_of(name)
        runtimes = ["onnxruntime", "torch"]
        place = [provider] if provider == CPU else [provider, CPU]
        asked = place if provider in (CPU, "CUDAExecutionProvider") else None
        report = meristem.verify(
            model,
            grown,
            runtime=runtimes if asked else runtimes[:1],
            providers=place,
            dtypes=DTYPES,
        )
        found = report.levels["deployment"]
        same = (report.levels[n].word in SAME for n in ("algebra", "deployment"))
        ok &= all(same)  # gradients are not what a card is asked for
        placed += [
            [name, p.setting, p.provider, str(p.nodes), kinds(p.operators)]
            for p in found.placement
            if p.model == "grown" and "off" not in p.setting
        ]
        errors += [
            [name, m.what, f"{m.error:.1e}", f"{m.limit:.1e}", "yes" if m.ok else "NO"]
            for m in found.measures
        ]
        errors += [[name, n, "", "", "not checked"] for n in found.notes if "not checked" in n]
        with tempfile.TemporaryDirectory() as folder:
            times += latencies(name, model, grown, provider, Path(folder))
    lines = table(
        "Placement of the grown models",
        ["family", "setting", "provider", "nodes", "operators"],
        placed,
    )
    lines += table(
        "Errors against float64", ["family", "output (setting)", "error", "limit", "within"], errors
    )
    lines += table(
        f"Latency in milliseconds (median of {RUNS} runs, batch and sizes as traced)",
        ["family", "type", "original", "grown"], times,
    )  # fmt: skip
    lines += ["", "Nothing differs." if ok else "SOMETHING DIFFERS."]
    print("\n".join(lines))
    return 0 if ok else 1


def kinds(operators: dict[str, int]) -> str:
    """The commonest operators."""
    ordered = sorted(operators.items(), key=lambda kv: (-kv[1], kv[0]))
    shown = [f"{n} {k}" for k, n in ordered[:4]]
    return ", ".join(shown) + (", ..." if len(ordered) > 4 else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
