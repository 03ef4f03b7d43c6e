"""Plans across carriers: made on the torch model for its ONNX export, and the other way round.

Ten families in width and depth. The grown file is run in ONNX Runtime against the original file (level 2
of verification), the grown program in float64 against the original one (level 1); both are one model.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from tests.e2e.measure import algebra_error, leaves
from tests.e2e.test_onnx_zoo import LIMIT, Case, deployed
from tests.e2e.test_torch_zoo import LIMIT as EXACT
from tests.zoo.entry import randomise

# Family -> the kinds that grow, in width and, where blocks repeat, in depth.
WIDE = {"mlp": "x1.5", "heads": "x2", "hidden": "x1.5"}
DEEP = {**WIDE, "layers": "+1"}
ZOO_FAMILIES: dict[str, dict[str, int | str]] = {
    "llama_tied": DEEP,
    "gpt2": DEEP,
    "bert": DEEP,
    "t5": DEEP,
    "vit": DEEP,
    "swin": {"mlp": "x1.5", "heads": "x2", "layers": "+2"},
    "resnet": {"channels": "x1.5", "mlp": "x1.5", "layers": "+1"},
    "convnext": {"mlp": "x1.5", "hidden": "x1.5", "layers": "+1"},
}


class Block(nn.Module):
    """A residual MLP."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(size),
            nn.Linear(size, inner),
            nn.Linear(inner, size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class TwoDecoders(nn.Module):
    """One encoder, two decoders that both read it, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.encoder, self.first, self.second = (
            nn.Sequential(Block(8, n), Block(8, n), nn.LayerNorm(8)) for n in (12, 14, 18)
        )
        self.heads = nn.ModuleList(nn.Linear(8, n) for n in (3, 4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(self.embed(x))
        return self.heads[0](self.first(h)), self.heads[1](self.second(h))


class Separable(nn.Module):
    """A residual depthwise, a pointwise and a grouped convolution, with batch norms."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.norm = nn.BatchNorm2d(size)
        self.point = nn.Conv2d(size, inner, 1)
        self.grouped = nn.Conv2d(inner, size, 3, padding=1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.grouped(torch.relu(self.point(self.norm(self.depthwise(x)))))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Separable(8, 12), Separable(8, 12))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


OWN: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, int | str]]] = {
    "convolutions": (
        Convolutions,
        (2, 3, 8, 8),
        {"channels": "x2", "hidden": "x2", "layers": "+1"},
    ),
    "two decoders": (TwoDecoders, (4, 5), {"mlp": "x1.5", "hidden": "x2", "layers": "+1"}),
}
QUICK = ("gpt2",)


class Pair:
    """A torch model, the exporter's file of one trace of it, and inputs."""

    def __init__(self, family: str, folder: Path) -> None:
        if family in OWN:
            build, shape, self.sizes = OWN[family]
            draw = torch.Generator().manual_seed(0)
            self.inputs = [[torch.randn(*shape, generator=draw)] for _ in range(8)]
            torch.manual_seed(0)
            module = build().eval()
            randomise(module)
            program = torch.export.export(module, tuple(self.inputs[0]))
            self.path = folder / "own.onnx"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                written = torch.onnx.export(program, dynamo=True, verbose=False)
            assert written is not None
            written.save(str(self.path))
            self.model = meristem.load(program)
        else:
            case = Case(family, dynamic=True, opset=20)
            self.model, self.path = case.both(folder)
            self.sizes, self.inputs = ZOO_FAMILIES[family], case.inputs()
        self.file = meristem.load(self.path)
        self.folder = folder

    def asked(self, model: Any) -> dict[str, int | str]:
        """What grows: those dimensions of the kinds that can, by their names."""
        return {
            d.name: self.sizes[d.kind]
            for d in model.dimensions
            if d.kind in self.sizes and (d.growable or d.boundary)
        }

    def error_of_file(self, grown: Any) -> float:
        """Largest error of the grown file, in those of the original."""
        path = grown.save(self.folder / "big.onnx")
        return deployed(self.model, self.path, path, self.inputs)

    def error_of_program(self, grown: Any) -> float:
        """Largest relative error of the grown program in float64."""
        return algebra_error(self.model, grown, *leaves(self.inputs[0]))


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.full) for f in (*ZOO_FAMILIES, *OWN)],
)
def test_plans_serve_both(family: str, tmp_path: Path, record_property: Any) -> None:
    pair = Pair(family, tmp_path)
    ours = meristem.plan(pair.model, pair.asked(pair.model), boundary="crop")
    theirs = meristem.plan(pair.file, pair.asked(pair.file), boundary="crop")
    ours, theirs = (meristem.Plan.from_json(p.to_json()) for p in (ours, theirs))
    kinds = {c.kind for c in ours.changes}
    assert kinds == {c.kind for c in theirs.changes} >= set(pair.sizes)
    file, program = meristem.grow(pair.file, ours), meristem.grow(pair.model, theirs)
    assert sorted(c.after for c in file.plan.changes) == sorted(c.after for c in ours.changes)
    assert sorted(c.after for c in program.plan.changes) == sorted(c.after for c in theirs.changes)
    there, here = pair.error_of_file(file), pair.error_of_program(program)
    record_property(f"{family}: file by the program's plan", f"{there:.2f} of the original's")
    record_property(f"{family}: program by the file's plan", f"{here:.1e}")
    assert there <= LIMIT
    assert here <= EXACT
