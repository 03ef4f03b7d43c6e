"""Every lowering's sizes are written back: each axis of each operator's model grows, or is refused."""

from pathlib import Path

import pytest

from meristem.backends.onnx_file import apply_script, save
from meristem.frontends.onnx_load import load_onnx
from meristem.frontends.onnx_view import view_onnx
from meristem.rewrite.axes import atoms_of, find
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.carriers.onnx_cases import CASES, Case
from tests.carriers.onnx_models import assert_same, model, run_ort

# ONNX's own inference fails on the function body of this operator, grown or not.
UNCHECKED = frozenset({"MeanVarianceNormalization"})
# A fused sum and norm: its statistics are not spelled out, which is said when it is asked for.
UNWRITTEN = frozenset({"SkipLayerNormalization"})


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in UNCHECKED], ids=repr)
def test_every_free_axis_grows_exactly(case: Case, tmp_path: Path) -> None:
    proto = model(case.nodes, case.inputs, case.weights, case.outputs, case.opset)
    carrier = load_onnx(proto)
    graph = view_onnx(carrier)
    eq = Equations(graph).solve()
    expected = run_ort(proto, case.inputs)
    atoms = [
        find(a) for v in (*graph.inputs, *graph.weights) for t in eq.of(v) for a in atoms_of(t)
    ]
    for atom in dict.fromkeys(atoms):
        if atom.size == 1 or not all(p.boundary for p in atom.pins):
            continue
        try:
            script = edit_script(solve(eq, {atom: atom.size + 1}, boundary="crop"))
        except NotPreserved:
            continue
        if script.statistics and case.name in UNWRITTEN:
            continue
        path = save(apply_script(carrier, script), tmp_path / "grown.onnx")
        assert_same(run_ort(path, case.inputs), expected, 3 * case.tolerance)
