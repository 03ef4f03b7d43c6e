"""One family: grown through torch and through its file, beside the class built at that size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploying.families import Family
from deploying.graphs import operators, optimised, session, transformers_optimised
from deploying.memory import peak
from deploying.timing import paired


def measure(family: Family, *, pairs: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that the table shows of a family, as JSON-ready data."""
    import meristem

    torch.manual_seed(seed)
    inputs = family.inputs()
    small, native = (family.build(**s).eval() for s in (family.small, family.large))
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        say("exporting")
        source = meristem.trace(small, (), inputs, dynamic_shapes=None)
        grown = meristem.grow(source, family.request, method=family.method, seed=seed)
        source.save(folder / "small.onnx")
        grown.save(folder / "through torch.onnx")
        file = meristem.grow(
            meristem.load(folder / "small.onnx"), family.request, method=family.method, seed=seed
        )
        file.save(folder / "through ONNX.onnx")
        exported = _export(native, inputs, folder / "native.onnx")
        shapes = {n: tuple(t.shape) for n, t in native.state_dict().items()}
        if shapes != {n: tuple(t.shape) for n, t in grown.state_dict().items()}:
            raise RuntimeError(
                f"{family.name}: the grown model has other sizes than the native one"
            )
        report = meristem.verify(source, grown, runtime="torch")
        if not report.ok:
            raise RuntimeError(f"{family.name}: {report}")
        feeds = {n: t.numpy() for n, t in inputs.items()}
        np.savez(folder / "inputs.npz", **feeds)
        result: dict[str, Any] = {
            "family": family.name, "method": family.method, "pays": family.pays, "seed": seed,
            "small": dict(family.small), "large": dict(family.large),
            "parameters": sum(p.numel() for p in native.parameters()),
            "inputs": {n: list(a.shape) for n, a in feeds.items()},
            "ways": {},
        }  # fmt: skip
        for way in ("through torch", "through ONNX"):
            say(f"{way}, in ONNX Runtime")
            result["ways"][way] = _files(
                family, folder / f"{way}.onnx", folder / "native.onnx", folder, feeds, pairs
            )
        say("in torch")
        result["ways"]["module"] = _modules(grown, exported, native, inputs, folder, pairs)
    return result


def _export(module: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> Any:
    """torch's own export, as its users do it."""
    with torch.no_grad():
        program = torch.export.export(module, (), inputs)
        torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(str(path))
    return program


def _files(
    family: Family, grown: Path, native: Path, folder: Path, feeds: dict[str, Any], pairs: int
) -> dict[str, Any]:
    """A grown file against the native one."""
    ours, theirs = session(grown), session(native)
    ratio = paired(_feeding(ours, feeds), _feeding(theirs, feeds), pairs)
    out: dict[str, Any] = {
        "latency": asdict(ratio),
        "memory": [_peak("onnx", p, folder) for p in (grown, native)],
        "written": [operators(p) for p in (grown, native)],
        "optimised": [optimised(p) for p in (grown, native)],
    }
    if family.optimizer:
        sizes = family.large["heads"], family.large["hidden"]
        out["transformers"] = [
            transformers_optimised(p, family.optimizer, *sizes) for p in (grown, native)
        ]
    return out


def _feeding(session: Any, feeds: dict[str, Any]) -> Callable[[], object]:
    """A run whose inputs go by the session's own names, in order."""
    named = dict(zip((v.name for v in session.get_inputs()), feeds.values(), strict=True))
    if set(named) == set(feeds):
        named = feeds
    return lambda: session.run(None, named)


def _modules(
    grown: Any, exported: Any, native: Any, inputs: dict[str, Any], folder: Path, pairs: int
) -> dict[str, Any]:
    """The grown module against the native program, and against the class itself."""
    module, program = grown.module().eval(), exported.run_decompositions({}).module()
    grown.save(folder / "grown.pt2")
    torch.export.save(exported.run_decompositions({}), folder / "native.pt2")

    def call(m: Any) -> Callable[[], object]:
        return lambda: m(**inputs)

    with torch.no_grad():
        return {
            "latency": asdict(paired(call(module), call(program), pairs)),
            "class": asdict(paired(call(module), call(native), pairs)),
            "memory": [_peak("torch", folder / f"{n}.pt2", folder) for n in ("grown", "native")],
            "written": [_called(m) for m in (grown.exported_program, exported.run_decompositions({}))],
        }  # fmt: skip


def _called(program: Any) -> dict[str, int]:
    """How often a program calls each operator."""
    names = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    return {n: names.count(n) for n in sorted(set(names))}


def _peak(kind: str, path: Path, folder: Path) -> list[int]:
    return sorted(peak(kind, path, folder / "inputs.npz") for _ in range(3))


__all__ = ["measure"]
