"""The zoo through ONNX files: the same dimensions, plans that bind both ways, and ONNX Runtime.

Level 2 of verification: the error of the grown file against float64 is at most 4 times the original
file's own rounding error, with the floor of docs/verify.md, with optimisations off and on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meristem
from meristem.carriers.torch_double import double_module
from tests.carriers.test_onnx_zoo import check_model
from tests.e2e.measure import deployment_ratio, leaves
from tests.e2e.test_torch_zoo import boundary_of, free, kinds_of
from tests.zoo import BATCH, RELATED, SEQUENCE, ZOO
from tests.zoo import inputs as example
from tests.zoo.exports import export, needs_positions, program_of

# Kinds whose dimensions the exporter may fold away or bake in, with the cause.
FOLDED = {
    "positions": "look-ups with constant indices (position, bucket and window tables) are folded, "
    "and masks become tables of the traced length",
    "vocabulary": "a tied table is stored twice where the exporter folds its transpose",
    "width": "an untied output table keeps its own rows, a tied one the embedding's",
}
# The same for (model, kind).
BEFORE_NORMS = (
    "a batch norm is folded into the convolution before it, which then stands where the norm stood"
)
FOLDED_IN = {("resnet", "channels"): BEFORE_NORMS}
# Dimensions that have more weights in the file than in the module, by (model, kind).
ONE_TABLE = (
    "the tables of rotations of all layers are equal and become one, which ties the rotated part "
    "of their heads"
)
MERGED = {("gptj", "qk_dim"): ONE_TABLE}
# Plans are carried out both ways in every test run; the others' in the full one.
BOTH = ("gpt2",)
# And these, which are grown through torch for every change.
LATER = RELATED | {
    "bart", "bert", "bloom", "convnext", "falcon_mq", "gemma2", "llama", "llama_tied", "mixtral",
    "nanogpt", "nanogpt_manual", "opt", "opt_postnorm", "qwen3", "swin", "t5", "torch_encoder_postnorm",
    "vit",
}  # fmt: skip
INPUTS = 8
LIMIT = 4.0
# Transposed, fused or sliced copies have other bytes; most weights must still be recognised.
KEPT = 0.5
# Models whose weights the exporter computes anew, with the cause.
REWRITTEN = {"resnet": BEFORE_NORMS}


@dataclass(frozen=True)
class Case:
    """A real class, an export of it by the real exporter, and inputs."""

    name: str
    dynamic: bool
    opset: int
    fresh: bool = False

    @property
    def positions(self) -> bool:
        return needs_positions(self.name, self.dynamic, self.opset)

    def both(self, folder: Path) -> tuple[Any, Path]:
        """The torch model and the exporter's file of one trace, which takes longer than all the rest."""
        program = program_of(self.name, self.dynamic, self.opset, fresh=self.fresh)
        path = export(
            self.name, self.dynamic, self.opset, folder, fresh=self.fresh, program=program
        )
        return meristem.load(program), path

    def inputs(self) -> list[list[torch.Tensor]]:
        """Eight, of two sizes where they may vary."""
        sizes = [(3, 5), (2, 9)] if self.dynamic else [(BATCH, SEQUENCE)]
        each = INPUTS // len(sizes)
        return [
            leaves(*example(self.name, *size, seed=seed, positions=self.positions))
            for size in sizes
            for seed in range(each)
        ]


def digest(array: np.ndarray) -> str:
    """Stored values whatever their layout: sorted bytes of the rounded entries."""
    flat = np.sort(np.asarray(array, np.float32).ravel())
    return hashlib.sha256(flat.tobytes()).hexdigest()


def comparable(model: Any, name: str) -> list[Any]:
    """Dimensions that the exporter leaves as they are."""
    return [d for d in model.dimensions if d.kind not in FOLDED and (name, d.kind) not in FOLDED_IN]


def named(model: Any, name: str) -> dict[str, int]:
    """Kind and place (they are a dimension's name), and size."""
    return {d.name: d.size for d in comparable(model, name)}


def matched(model: Any, name: str) -> tuple[dict[str, set[str]], set[str]]:
    """Dimension name -> its trained weights by content; and all trained weights by content."""
    arrays = {
        w.name: digest(w.array())
        for w in model.graph.weights
        if w.is_float and w.role == "parameter"
    }
    return {
        d.name: {arrays[n] for n, _ in d.weights if n in arrays} for d in comparable(model, name)
    }, set(arrays.values())


def compare(model: Any, file: Any, name: str) -> None:
    """The same dimensions, of the same weights as far as the exporter kept them."""
    assert named(model, name) == named(file, name)
    (ours, own), (theirs, stored) = matched(model, name), matched(file, name)
    for dimension, weights in ours.items():
        more = theirs[dimension] & own if (name, dimension.split("@")[0]) in MERGED else set()
        assert weights & stored | more == theirs[dimension] & own, dimension
    kept = 0 if name in REWRITTEN else KEPT
    assert len(own & stored) >= kept * len(own), "hardly any weight is stored as it was"


def request_for(model: Any, name: str = "") -> dict[str, str]:
    """Every free dimension of the six kinds; with a model's name, those that the exporter keeps."""
    out: dict[str, str] = {}
    for kind in kinds_of(model):
        if kind != "group" and (name, kind) not in FOLDED_IN:
            out |= free(model, kind)
    return out


def stored(model: Any) -> dict[str, str]:
    """Every name of a weight, and the one that its recipe has."""
    return {n: w.name for w in model.graph.weights for n in w.names}


def check(case: Case, folder: Path, *, both: bool) -> float:
    """Dimensions, plans both ways, the grown file in ONNX Runtime; the worst ratio of errors.

    ``both``: the plan of the file grows the torch model, and the plan of that the file. Else the plans of
    both, in width, are compared as binding does, and the file grows by its own.
    """
    model, path = case.both(folder)
    file = meristem.load(path)
    compare(model, file, case.name)
    shared, everything = request_for(model, case.name), request_for(file)
    policy = boundary_of(model, everything)[0]
    if both:
        there = meristem.grow(model, meristem.plan(file, shared, boundary=policy))
        grown = meristem.grow(file, there.plan)
        assert there.plan.changes
        assert grown.plan.sizes == there.plan.sizes
    else:
        width = {k: v for k, v in shared.items() if not k.startswith("layers")}
        ours, theirs = (meristem.plan(m, width, boundary=policy) for m in (model, file))
        assert ours.sizes == theirs.sizes
        ours.check(theirs, stored(file))
        theirs.check(ours, stored(model))
        grown = meristem.grow(file, shared, boundary=policy)
    if case.name in {name for name, _ in FOLDED_IN}:
        grown = meristem.grow(file, everything, boundary=policy)
    return deployed(model, path, grown.save(folder / "big.onnx"), case.inputs())


def deployed(model: Any, path: Path, big: Path, inputs: list[list[torch.Tensor]]) -> float:
    """Level 2 on both files, without optimisations and with."""
    program = double_module(model.carrier)
    with torch.no_grad():
        reference = [
            [t.numpy() for t in program(*x) if isinstance(t, torch.Tensor)] for x in inputs
        ]
    return max(
        deployment_ratio(path, big, reference, inputs, optimised=optimised)
        for optimised in (False, True)
    )


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in LATER else n for n in sorted(ZOO)]
)
def test_dynamic_file(name: str, tmp_path: Path, record_property: Any) -> None:
    case = Case(name, dynamic=True, opset=20)
    ratio = check(case, tmp_path, both=name in BOTH)
    record_property(f"{name}: dynamic 20", f"{ratio:.2f}")
    assert ratio <= LIMIT


@pytest.mark.full
@pytest.mark.parametrize(("dynamic", "opset"), [(True, 23), (False, 20), (False, 23)])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_variant(
    name: str, dynamic: bool, opset: int, tmp_path: Path, record_property: Any
) -> None:
    """And the view against ONNX Runtime, with every free axis of the file grown."""
    case = Case(name, dynamic, opset)
    ratio = check(case, tmp_path, both=True)
    path = export(name, dynamic, opset, tmp_path)
    record_property(f"{name}: {'dynamic' if dynamic else 'static'} {opset}", f"{ratio:.2f}")
    assert ratio <= LIMIT
    check_model(name, dynamic, opset, path, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama_tied", "vit"])
def test_a_freshly_initialised_model(name: str, tmp_path: Path) -> None:
    """The exporter merges equal initialisers; unit gains and zero biases must not tie axes."""
    case = Case(name, dynamic=True, opset=20, fresh=True)
    model, path = case.both(tmp_path)
    file = meristem.load(path)
    assert named(model, name) == named(file, name)
    grown = meristem.grow(file, {"mlp": "x1.5", "heads": "x2", "hidden": "x1.5"})
    assert deployed(model, path, grown.save(tmp_path / "big.onnx"), case.inputs()) <= LIMIT


@pytest.mark.full
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "swin"])
def test_an_emitted_file_grows_again(name: str, tmp_path: Path) -> None:
    case = Case(name, dynamic=name != "swin", opset=20)
    model, path = case.both(tmp_path)
    step, last = meristem.load(path), path
    for i in range(2):
        request = request_for(step)
        grown = meristem.grow(step, request, boundary=boundary_of(step, request)[0])
        last = grown.save(tmp_path / f"step{i}.onnx")
        step = meristem.load(last)
    assert deployed(model, path, last, case.inputs()) <= LIMIT
