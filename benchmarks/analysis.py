"""How long analysis and planning take in deep models, and what inspecting a large file needs.

    .venv/bin/python benchmarks/analysis.py [--layers 12,24,48,96,192,384] [--memory]

Times are of the view, the axis equations, the dimensions (with stacks), and the plan of a request
that grows every width (joint solution, proof, edit script); torch.export is not in them. They are
processor time of the one thread that works, so a busy machine changes them little. The exponent is
that of a line fitted to log time over log layers: 1 is linear. ``--memory`` writes a model of 2 GB
with external data into a temporary folder and measures the resident memory of ``meristem inspect``.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

LAYERS = (12, 24, 48, 96, 192, 384)
REQUEST = {"mlp": "+8", "heads": "+2", "qk_dim": "+2", "value_dim": "+2", "hidden": "+8"}
STEPS = ("view", "axes", "dimensions", "plan", "total")
TARGET_EXPONENT, TARGET_SECONDS, TARGET_LAYERS = 1.15, 3.0, 48
TARGET_MEGABYTES = 500
REPEATS = 3

# Prints the peak of what `meristem inspect` itself held; the import of the interpreter counts too.
# getrusage would add what the parent held when it forked, so Linux is asked for this process alone.
_INSPECT = """
import pathlib, re, resource, sys
from meristem.cli import main
sys.argv = ["meristem", "inspect", sys.argv[1]]
try:
    main()
except SystemExit as done:
    code = done.code
status = pathlib.Path("/proc/self/status")
if status.exists():
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) // 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
print("peak", peak, "code", code or 0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)))
    parser.add_argument("--memory", action="store_true", help="measure the 2 GB file too")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    facts()
    measured = {}
    header = f"{'layers':>6} {'ops':>7} {'trace':>8}  " + " ".join(f"{s:>10}" for s in STEPS)
    print(
        f"\nseconds of processor time, best of {REPEATS} (trace: once, not counted)\n{header}",
        flush=True,
    )
    for layers in map(int, given.layers.split(",")):
        carrier, seconds = traced(layers)
        ops, times = best(carrier)
        measured[layers] = times
        cells = " ".join(f"{times[s]:>10.3f}" for s in STEPS)
        print(f"{layers:>6} {ops:>7} {seconds:>8.1f}  {cells}", flush=True)
        del carrier
        gc.collect()
    if len(measured) > 1:
        powers = {s: exponent(measured, s) for s in STEPS}
        print(f"{'exponent':>8}{'':>16}" + " ".join(f"{powers[s]:>10.2f}" for s in STEPS))
        say("exponent of the total", powers["total"], TARGET_EXPONENT)
    if TARGET_LAYERS in measured:
        say(f"seconds at {TARGET_LAYERS} layers", measured[TARGET_LAYERS]["total"], TARGET_SECONDS)
    if given.memory:
        say("resident megabytes of inspect", memory(), TARGET_MEGABYTES)


def facts() -> None:
    """Versions and the machine, without names or paths."""
    names = ("torch", "onnx", "onnx-ir", "numpy", "transformers")
    print(f"python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}")


def say(what: str, value: float, target: float) -> None:
    word = "met" if value <= target else "MISSED"
    print(f"{what}: {value:.2f} (target {target:g}, {word})")


def traced(layers: int) -> tuple[Any, float]:
    """A carrier of a small instance of the real class, and how long tracing took."""
    import torch
    import transformers as tf

    import meristem

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, use_cache=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    module = tf.LlamaForCausalLM(config).eval()
    start = time.process_time()
    model = meristem.trace(module, (), {"input_ids": torch.randint(3, 64, (2, 7))})
    return model.carrier, time.process_time() - start


def best(carrier: Any) -> tuple[int, dict[str, float]]:
    """Operators of the view, and the times of the fastest of some runs, step by step."""
    runs = [analyse(carrier) for _ in range(REPEATS)]
    return runs[0][0], min((times for _, times in runs), key=lambda t: t["total"])


def analyse(carrier: Any) -> tuple[int, dict[str, float]]:
    """One analysis and one plan, from the carrier to the edit script."""
    from meristem.frontends.torch_view import view_torch
    from meristem.model import Model
    from meristem.preparation import prepare
    from meristem.rewrite.equations import Equations
    from meristem.sides import TorchSide

    times: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = step()
        times[name] = time.process_time() - start
        return result

    model = Model(carrier, TorchSide())
    graph = timed("view", lambda: view_torch(carrier))
    model.__dict__["graph"] = graph
    model.__dict__["equations"] = timed("axes", lambda: Equations(graph).solve())
    timed("dimensions", lambda: model.dimensions)
    timed("plan", lambda: prepare(model, REQUEST))
    times["total"] = sum(times.values())
    return len(graph.ops), times


def exponent(measured: dict[int, dict[str, float]], step: str) -> float:
    """The slope of log time over log layers, by least squares."""
    import numpy as np

    x = np.log([float(n) for n in measured])
    y = np.log([t[step] for t in measured.values()])
    return float(np.polyfit(x, y, 1)[0])


def memory() -> float:
    """Megabytes resident at most while a process inspects a file with 2 GB of external data."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_large(Path(folder) / "large.onnx")
        size = sum(p.stat().st_size for p in path.parent.iterdir()) / 2**30
        done = subprocess.run(
            [sys.executable, "-c", _INSPECT, str(path)], capture_output=True, text=True, check=False
        )
    words = done.stdout.split()
    if done.returncode or words[-1] != "0":
        raise SystemExit(f"inspect failed:\n{done.stdout}{done.stderr}")
    print(f"\ninspected a file of {size:.2f} GB")
    return float(words[-3])


def write_large(path: Path, layers: int = 8, hidden: int = 2048, inner: int = 16384) -> Path:
    """A residual stack of MLPs, 8 * 2 * 2048 * 16384 float32 weights, written block by block."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    weights, nodes = [], []
    value = "x"
    data = path.with_name(path.name + ".data")
    generator = np.random.default_rng(0)
    with data.open("wb") as out:
        for i in range(layers):
            for name, shape in ((f"up.{i}", (hidden, inner)), (f"down.{i}", (inner, hidden))):
                weights.append(external(name, shape, data.name, out.tell()))
                for _ in range(shape[0]):
                    out.write(generator.standard_normal(shape[1], np.float32).tobytes())
            nodes += [
                helper.make_node("MatMul", [value, f"up.{i}"], [f"a{i}"]),
                helper.make_node("Relu", [f"a{i}"], [f"b{i}"]),
                helper.make_node("MatMul", [f"b{i}", f"down.{i}"], [f"c{i}"]),
                helper.make_node("Add", [value, f"c{i}"], [f"d{i}"]),
            ]
            value = f"d{i}"
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", hidden]) for n in ("x", value)
    ]
    graph = helper.make_graph(nodes, "large", info[:1], info[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def external(name: str, shape: tuple[int, int], location: str, offset: int) -> Any:
    """A tensor whose numbers lie in another file."""
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", location),
        ("offset", offset),
        ("length", shape[0] * shape[1] * 4),
    ):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


if __name__ == "__main__":
    main()
