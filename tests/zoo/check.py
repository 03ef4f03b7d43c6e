"""Export entries in every way, run them and compare.

``python -m tests.zoo.check --onnx /tmp/zoo_onnx gpt2``; without names, the whole zoo. Writes the
histograms of operators that the lowering tables must know.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn
from torch.utils import _pytree as pytree

from . import KNOWN, ZOO, build, dynamic_shapes, inputs

SIZES = [(3, 5), (5, 11)]
"""Batch and sequence at which dynamic programs must agree; the trace has (2, 7)."""
OPSETS = (20, 23)


class Histogram:
    """How often each operator occurs in each way of exporting, in which models, and some calls."""

    def __init__(self, ways: list[str]) -> None:
        self.ways = ways
        self.count: dict[str, Counter[str]] = defaultdict(Counter)
        self.calls: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def add(self, op: str, way: str, model: str, call: str) -> None:
        self.count[op][way] += 1
        seen = self.calls[op][model]
        if len(seen) < 2 and call not in seen:
            seen.append(call)

    def write(self, path: Path) -> None:
        """A line for each operator, and under it a few calls from different models."""
        lines = [
            f"# {len(self.count)} operators; operator | nodes {' / '.join(self.ways)} | models"
        ]
        for op in sorted(self.count):
            numbers = " / ".join(str(self.count[op][way]) for way in self.ways)
            lines.append(f"{op} | {numbers} | {','.join(self.calls[op])}")
            examples = [
                f"    {model}: {call}" for model, calls in self.calls[op].items() for call in calls
            ]
            lines += examples[:: max(1, len(examples) // 5)][:6]
        path.write_text("\n".join(lines) + "\n")


def compare(expected: Any, actual: Any) -> None:
    """Raise unless the leaves of two outputs agree."""
    left, right = (
        [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        for out in (expected, actual)
    )
    assert len(left) == len(right) > 0, f"{len(left)} outputs against {len(right)}"
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def _show(value: Any) -> str:
    if isinstance(value, torch.fx.Node):
        meta = value.meta.get("val")
        if isinstance(meta, torch.Tensor):
            return f"{str(meta.dtype).removeprefix('torch.')}[{','.join(map(str, meta.shape))}]"
        return f"sym({meta})"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_show, value)) + "]"
    return repr(value)


def _count_aten(
    program: torch.export.ExportedProgram, name: str, way: str, into: Histogram
) -> None:
    for graph in (
        m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)
    ):
        for node in graph.nodes:
            if node.op not in ("placeholder", "output"):
                named = [f"{key}={_show(value)}" for key, value in node.kwargs.items()]
                call = f"({', '.join([*map(_show, node.args), *named])}) -> {_show(node)}"
                target = (
                    node.target
                    if isinstance(node.target, str)
                    else getattr(node.target, "__name__", "")
                )
                op = (
                    str(node.target)
                    if isinstance(node.target, torch._ops.OpOverload)
                    else f"{node.op}:{target}"
                )
                into.add(op, way, name, call)


def check_torch(name: str, dynamic: bool, into: Histogram) -> None:
    module, args, kwargs = build(name)
    shapes = dynamic_shapes(name) if dynamic else None
    exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    program = exported.run_decompositions({})
    _count_aten(program, name, _word(dynamic), into)
    run = program.module()
    trainable = (name, "torch gradients") not in KNOWN
    for one, named in _cases(name, dynamic, False, (args, kwargs)):
        for gradients in (False, True) if trainable else (False,):
            with torch.set_grad_enabled(gradients):
                compare(module(*one, **named), run(*one, **named))


def _word(dynamic: bool) -> str:
    return "dynamic" if dynamic else "static"


def _cases(name: str, dynamic: bool, positions: bool, traced: Any) -> Iterable[tuple[Any, Any]]:
    yield traced
    if dynamic:
        yield from (inputs(name, *size, seed=1, positions=positions) for size in SIZES)


def check_onnx(name: str, dynamic: bool, opset: int, folder: Path, into: Histogram) -> None:
    positions = dynamic and (name, f"onnx dynamic {opset}") in KNOWN
    module, args, kwargs = build(name, onnx=True, positions=positions)
    path = folder / f"{name}_{_word(dynamic)}_{opset}.onnx"
    shapes = dynamic_shapes(name, positions=positions) if dynamic else None
    program = torch.onnx.export(
        module,
        args,
        kwargs=kwargs,
        dynamo=True,
        optimize=True,
        opset_version=opset,
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    _count_onnx(onnx.load(str(path)), name, f"{_word(dynamic)}_{opset}", into)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for one, named in _cases(name, dynamic, positions, (args, kwargs)):
        _compare_session(module, session, one, named)


def _compare_session(
    module: nn.Module, session: onnxruntime.InferenceSession, args: Any, kwargs: Any
) -> None:
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, args, strict=False)) | kwargs
    outputs = session.run(None, {key: feed[key].numpy() for key in names})
    with torch.no_grad():
        compare(module(*args, **kwargs), [torch.from_numpy(out) for out in outputs])


def _count_onnx(model: onnx.ModelProto, name: str, way: str, into: Histogram) -> None:
    known = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    shapes = {value.name: _type(value.type.tensor_type) for value in known}
    for weight in model.graph.initializer:
        value = onnx.numpy_helper.to_array(weight)
        small = value.size <= 6
        shapes[weight.name] = f"const {value.tolist()}" if small else f"weight{[*value.shape]}"
    for node in model.graph.node:
        inputs = ", ".join(shapes.get(value, value or "-") for value in node.input)
        attributes = ", ".join(
            onnx.helper.printable_attribute(attribute)[:80] for attribute in node.attribute
        )
        outputs = ", ".join(shapes.get(value, value) for value in node.output)
        op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        into.add(op, way, name, f"({inputs}; {attributes}) -> {outputs}")


def _type(tensor: onnx.TypeProto.Tensor) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{','.join(dims)}]"


def _attempt(label: str, step: Callable[..., None], *arguments: Any) -> bool:
    start = time.perf_counter()
    try:
        step(*arguments)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = str(error).strip()[:1500]
        print(
            f"FAIL {label}: {type(error).__name__} at {last.filename}:{last.lineno}\n    {message}",
            flush=True,
        )
        return False
    print(f"ok   {label} {time.perf_counter() - start:.1f} s", flush=True)
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--onnx", type=Path, help="also export to ONNX, into this folder")
    parser.add_argument("--opsets", type=int, nargs="*", default=OPSETS)
    parser.add_argument(
        "--lists", type=Path, default=Path("/tmp"), help="where aten_ops.txt and onnx_ops.txt go"
    )
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    aten = Histogram(["static", "dynamic"])
    exported = Histogram(
        [f"{_word(dynamic)}_{opset}" for dynamic in (False, True) for opset in options.opsets]
    )
    failures = 0
    for name, dynamic in product(options.names or list(ZOO), (False, True)):
        label = f"{name} torch {_word(dynamic)}"
        failures += not _attempt(label, check_torch, name, dynamic, aten)
        aten.write(options.lists / "aten_ops.txt")
        for opset in options.opsets if options.onnx else ():
            options.onnx.mkdir(parents=True, exist_ok=True)
            label = f"{name} onnx {_word(dynamic)} {opset}"
            failures += not _attempt(
                label, check_onnx, name, dynamic, opset, options.onnx, exported
            )
            exported.write(options.lists / "onnx_ops.txt")
    print(f"{failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
