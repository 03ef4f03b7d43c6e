"""The zoo through ONNX files: the same dimensions, plans that bind both ways, and ONNX Runtime.

Level 2 of verification: the error of the grown file against float64 is at most 4 times the original
file's own rounding error, with the floor of DESIGN.md section 8, with optimisations off and on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meristem
from meristem.carriers.torch_double import double_module
from tests.e2e.measure import deployment_ratio, leaves
from tests.e2e.test_torch_zoo import boundary_of, free, kinds_of
from tests.zoo import ZOO, build, dynamic_shapes
from tests.zoo import inputs as example

# Kinds whose dimensions the exporter may fold away or bake in, with the cause.
FOLDED = {
    "positions": "look-ups with constant indices (position, bucket and window tables) are folded, "
    "and masks become tables of the traced length",
    "vocabulary": "a tied table is stored twice where the exporter folds its transpose",
    "width": "an untied output table keeps its own rows, a tied one the embedding's",
    "channels": "batch norms are folded into convolutions",
}
VARIANTS = [(dynamic, opset) for dynamic in (True, False) for opset in (20, 23)]


def export(name: str, folder: Path, dynamic: bool, opset: int, *, fresh: bool = False) -> Path:
    """The real exporter on the real class."""
    # Rotary tables that depend on the sequence length alone make the exporter's opset 23 fusion write
    # a file that ONNX Runtime refuses (tests/zoo/known.py); explicit position ids avoid it.
    positions = dynamic and opset == 23 and rotary(name)
    module, args, kwargs = build(name, onnx=True, fresh=fresh, positions=positions)
    shapes = dynamic_shapes(name, positions=positions) if dynamic else None
    path = folder / f"{name}.onnx"
    with torch.no_grad():
        program = torch.onnx.export(
            module, args, kwargs=kwargs, dynamo=True, opset_version=opset, dynamic_shapes=shapes,
            optimize=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(path))
    return path


def rotary(name: str) -> bool:
    from tests.zoo.known import KNOWN

    return (name, "onnx dynamic 23") in KNOWN


def digest(array: np.ndarray) -> str:
    """Stored values whatever their layout: sorted bytes of the rounded entries."""
    flat = np.sort(np.asarray(array, np.float32).ravel())
    return hashlib.sha256(flat.tobytes()).hexdigest()


def matched(model: Any) -> dict[str, tuple[int, frozenset[str]]]:
    """Dimension name -> size and the set of its trained weights by content."""
    arrays = {w.name: digest(w.array()) for w in model.graph.weights if w.is_float}
    roles = {w.name: w.role for w in model.graph.weights}
    return {
        d.name: (
            d.size,
            frozenset(arrays[n] for n, _ in d.weights if n in arrays and roles[n] == "parameter"),
        )
        for d in model.dimensions
        if d.kind not in FOLDED
    }


def check(name: str, folder: Path, dynamic: bool, opset: int) -> None:
    path = export(name, folder, dynamic, opset)
    file = meristem.load(path)
    module, args, kwargs = build(name, onnx=True)
    model = meristem.trace(module, args, kwargs, dynamic_shapes(name) if dynamic else None)
    ours, theirs = matched(model), matched(file)
    assert {n: s for n, (s, _) in ours.items()} == {n: s for n, (s, _) in theirs.items()}
    for n, (_, weights) in ours.items():
        both = weights & theirs[n][1]
        assert both, f"{n}: no weight of the module is found in the file"
    request: dict[str, str] = {}
    for kind in kinds_of(model):
        if kind != "group":
            request |= free(model, kind)
    policy = boundary_of(model, request)[0]
    plan = meristem.plan(model, request, boundary=policy)
    grown = meristem.grow(file, plan)
    assert grown.plan.sizes == plan.sizes
    assert meristem.plan(
        model, meristem.plan(file, request, boundary=policy).sizes, boundary=policy
    )
    big = grown.save(folder / "big.onnx")
    sizes = [(3, 5), (2, 9)] if dynamic else [(2, 7)]
    for batch, length in sizes:
        positions = dynamic and opset == 23 and rotary(name)
        a, k = example(name, batch, length, positions=positions)
        inputs = leaves(a, k)
        source = module
        if positions:
            source = build(name, onnx=True, positions=True)[0]
        reference = float64(source, a, k)
        for optimised in (False, True):
            ratio = deployment_ratio(path, big, reference, inputs, optimised=optimised)
            assert ratio <= 4, (batch, length, optimised, ratio)


def float64(module: torch.nn.Module, args: Any, kwargs: Any) -> list[np.ndarray]:
    """The module's outputs in float64, through its retyped program."""
    model = meristem.trace(module, args, kwargs, None)
    with torch.no_grad():
        outputs = double_module(model.carrier)(*leaves(args, kwargs))
    return [t.numpy() for t in outputs if isinstance(t, torch.Tensor)]


# What every change runs; the others run with `make test-full` (docs/status.md).
FAST = frozenset(
    [
        "bart",
        "bert",
        "bert_encoder",
        "clip",
        "cohere",
        "cohere_qknorm",
        "convnext",
        "convnext_hf",
        "falcon",
        "falcon_mq",
        "gemma2",
        "gpt2",
        "gpt_neox",
        "llama",
        "llama_tied",
    ]
)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.full) for n in sorted(ZOO)]
)
def test_dynamic_file(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, True, 20)


@pytest.mark.full
@pytest.mark.parametrize(("dynamic", "opset"), [v for v in VARIANTS if v != (True, 20)])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_variant(name: str, dynamic: bool, opset: int, tmp_path: Path) -> None:
    check(name, tmp_path, dynamic, opset)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama_tied", "vit"])
def test_a_freshly_initialised_model(name: str, tmp_path: Path) -> None:
    """The exporter merges equal initialisers; unit gains and zero biases must not tie axes."""
    path = export(name, tmp_path, True, 20, fresh=True)
    file = meristem.load(path)
    module, args, kwargs = build(name, onnx=True, fresh=True)
    model = meristem.trace(module, args, kwargs, None)
    names = {d.name: d.size for d in model.dimensions if d.kind not in FOLDED}
    assert names == {d.name: d.size for d in file.dimensions if d.kind not in FOLDED}
    grown = meristem.grow(file, {"mlp": "x1.5", "heads": "x2", "hidden": "x1.5"})
    big = grown.save(tmp_path / "big.onnx")
    a, k = ZOO[name].inputs(3, 5)
    reference = float64(module, a, k)
    assert deployment_ratio(path, big, reference, leaves(a, k), optimised=False) <= 4


@pytest.mark.full
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "swin"])
def test_an_emitted_file_grows_again(name: str, tmp_path: Path) -> None:
    path = export(name, tmp_path, name != "swin", 20)
    module, _, _ = build(name, onnx=True)
    step, paths = meristem.load(path), [path]
    for i in range(2):
        request: dict[str, str] = {}
        for kind in kinds_of(step):
            if kind != "group":
                request |= free(step, kind)
        grown = meristem.grow(step, request, boundary=boundary_of(step, request)[0])
        paths.append(grown.save(tmp_path / f"step{i}.onnx"))
        step = meristem.load(paths[-1])
    a, k = ZOO[name].inputs(2, 7)
    reference = float64(module, a, k)
    ratio = deployment_ratio(paths[0], paths[-1], reference, leaves(a, k), optimised=False)
    assert ratio <= 4
