"""Every exact method through files: the plan of the torch model carried out on its ONNX export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meristem
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.request import by_name
from tests.e2e.measure import deployment_ratio
from tests.e2e.test_methods import FACTOR, OWN, model_of, requests
from tests.e2e.test_torch_zoo import boundary_of

LISTED = ("llama_tied", "gpt2", "bert", "t5", "vit", "swin", "resnet", "convnext")
METHODS = {**FACTOR, "masked": "x1.5", "fuse": "x2"}
# The file without its batch norms numbers dimensions of one place otherwise (docs/status.md).
NUMBERED = ("resnet",)
WHOLE = ("copy", "clone", "fuse")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One export for each model."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            model, inputs = model_of(name)
            path = model.save(tmp_path_factory.mktemp("files") / f"{name}.onnx")
            with torch.no_grad():
                wide = [x.double() if x.is_floating_point() else x for x in inputs]
                out = model.module().double()(*wide)
            tensors = [
                t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor)
            ]
            known[name] = (model, inputs, path, [t.numpy() for t in tensors])
        return known[name]

    return get


@pytest.mark.full
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [*OWN, *LISTED])
def test_a_file_grows_as_its_model_does(name: str, method: str, files: Any, tmp_path: Path) -> None:
    """The same weights in both carriers, and in ONNX Runtime the old function."""
    model, inputs, path, reference = files(name)
    file = meristem.load(path)
    before, stored = model.state_dict(), file.state_dict()
    # Exporters fold batch norms into the convolutions before them.
    same = {
        n for n in before.keys() & stored.keys() if np.array_equal(before[n].numpy(), stored[n])
    }
    # Draws depend on the name, and of tied names each carrier takes its own.
    same -= {n for w in (*model.graph.weights, *file.graph.weights) if w.aliases for n in w.names}
    assert same
    # Tables that the exporter folds into constants of the traced sizes are no dimensions of the file.
    known = {n for d in file.dimensions for n in (d.kind, d.name, by_name(d.name))}
    grown = 0
    for i, wishes in enumerate(requests(model, METHODS[method])):
        request = {n: size for n, size in wishes.items() if n in known}
        if not request:
            continue
        policy = boundary_of(model, request)[0]
        try:
            plan = meristem.plan(model, request, method=method, boundary=policy)
        except (NotPreserved, meristem.SizeError):
            assert method in WHOLE, "only whole copies are refused, of axes that two requests share"
            continue
        grown += 1
        if name in NUMBERED:
            big = meristem.grow(file, request, method=method, boundary=policy)
        else:
            big = meristem.grow(file, meristem.Plan.from_json(plan.to_json()))
        saved = big.save(tmp_path / f"{i}.onnx")
        assert deployment_ratio(path, saved, [reference], [inputs], optimised=True) <= 4
        ours = meristem.grow(model, plan).state_dict()
        theirs = big.state_dict()
        for n in () if name in NUMBERED else same & theirs.keys():
            np.testing.assert_array_equal(ours[n].numpy(), theirs[n], err_msg=n)
    assert grown
