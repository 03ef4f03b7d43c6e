"""Exported models: the view computes what ONNX Runtime does, and every free axis grows exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from meristem.backends.onnx_file import apply_script, save
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.axes import atoms_of, find
from meristem.rewrite.equations import Equations
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.carriers.onnx_models import assert_same, run_ort, run_view
from tests.zoo import ZOO, inputs
from tests.zoo.exports import export, needs_positions

QUICK = [("nanogpt", True, 20), ("llama", False, 23)]
# The other variants are checked where they are exported anyway, in tests/e2e/test_onnx_zoo.py.
EVERY = [
    pytest.param(name, True, 20, marks=pytest.mark.full)
    for name in ZOO
    if (name, True, 20) not in QUICK
]
# Growths of learned positions that are read at positions counted from the data: nothing proves these
# to be non-negative, and a negative one would count from the new end.
COUNTED = frozenset({"roberta"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def feeds(name: str, path: Path, batch: int, seq: int, dynamic: bool, opset: int) -> dict[str, Any]:
    """Valid inputs under the names that the file has."""
    args, kwargs = inputs(name, batch, seq, positions=needs_positions(name, dynamic, opset))
    names = [v.name for v in onnx.load(path, load_external_data=False).graph.input]
    given = dict(zip(names, args, strict=False)) | kwargs
    return {n: given[n].numpy() for n in names}


def check_model(name: str, dynamic: bool, opset: int, path: Path, folder: Path) -> None:
    carrier = load_onnx(path)
    graph = view_onnx(carrier)
    assert [op.where for op in graph.ops if op.kind == "opaque"] == []
    eq = Equations(graph).solve()
    assert eq.conflicts == []
    assert onnx.load(save(carrier, folder / "same.onnx")) == onnx.load(path)
    sizes = [(3, 5), (5, 11)] if dynamic else [(2, 7)]
    given = [feeds(name, path, *size, dynamic, opset) for size in sizes]
    expected = [run_ort(path, f) for f in given]
    for f, e in zip(given, expected, strict=True):
        assert_same(run_view(carrier, f), e, 1e-4)
    grown = grow_everything(name, carrier, eq)
    saved = save(grown, folder / "grown.onnx")
    for f, e in zip(given, expected, strict=True):
        assert_same(run_ort(saved, f), e, 1e-5)


def grow_everything(name: str, carrier: Any, eq: Equations) -> Any:
    """All atoms of weights that nothing pins, at once."""
    atoms: dict[Any, int] = {}
    for w in eq.graph.weights:
        if name in COUNTED and "position" in w.name:
            continue
        for t in (find(t) for term in eq.of(w) for t in atoms_of(term)):
            if t.size > 1 and not t.pins:
                atoms[t] = t.size + t.size // 2
    assert atoms
    return apply_script(carrier, edit_script(solve(eq, atoms)))


@pytest.mark.parametrize(("name", "dynamic", "opset"), [*QUICK, *EVERY])
def test_exported_models(name: str, dynamic: bool, opset: int, folder: Path) -> None:
    path = export(name, dynamic, opset, folder)
    check_model(name, dynamic, opset, path, folder)


@pytest.mark.parametrize(
    "name", ["nanogpt", *(pytest.param(n, marks=pytest.mark.full) for n in ("llama", "t5", "swin"))]
)
def test_unoptimised_exports(name: str, folder: Path) -> None:
    """Sequences, constant nodes and sizes as operators: no optimiser has to run before the view."""
    path = export(name, True, 20, folder, optimize=False)
    check_model(name, True, 20, path, folder)


def test_a_grown_export_is_loaded_and_grown_again(folder: Path) -> None:
    path = export("nanogpt", True, 20, folder)
    carrier = load_onnx(path)
    first = grow_everything("nanogpt", carrier, Equations(view_onnx(carrier)).solve())
    saved = save(first, folder / "first.onnx")
    given = feeds("nanogpt", path, 3, 5, True, 20)
    expected = run_ort(path, given)
    for again in (first, load_onnx(saved)):
        second = grow_everything("nanogpt", again, Equations(view_onnx(again)).solve())
        assert_same(run_ort(save(second, folder / "second.onnx"), given), expected, 1e-5)
