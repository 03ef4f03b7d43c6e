"""Measuring two models against each other, independently of the verify room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils import _pytree as pytree

import meristem
from meristem.backends.program import lift_tensors
from meristem.carriers.torch_double import double_module, double_tensors
from meristem.rewrite.edits import WeightEdit
from meristem.rewrite.made import made

EPS32 = 2.0**-23


def leaves(*tree: Any) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def recipes_in_double(model: Any, grown: Any) -> dict[str, torch.Tensor]:
    """The grown model's tensors: recipes evaluated in float64 from the source's stored weights."""
    wide = double_tensors(model.carrier.tensors)
    *before, last = grown.plan.steps
    for plan in before:
        then = meristem.grow(model, plan)
        wide = evaluated(model, plan, wide, then.carrier.tensors)
        model = then
    return evaluated(model, last, wide, grown.carrier.tensors)


def evaluated(model: Any, plan: Any, wide: Any, tensors: Any) -> dict[str, torch.Tensor]:
    """What one growth makes of ``wide`` tensors of a model, which are stored afterwards as ``tensors``."""
    stored = {n: w for w in model.graph.weights for n in w.names}
    edits = {
        name: WeightEdit(w, recipe, tuple(stored[d] for d in recipe.donors))
        for w in model.graph.weights
        for recipe in [plan.weights.get(w.name)]
        if recipe is not None
        for name in w.names
    }
    wide = lift_tensors(wide, edits)
    out = dict(tensors)
    for name, stored in out.items():
        source, how = plan.clones.get(name, (name, "copy"))
        old = wide.get(source, torch.zeros_like(stored, dtype=torch.float64))
        new = old if how == "copy" else torch.from_numpy(made(how).apply(old.numpy()))
        if source in wide and new.shape == stored.shape:
            out[name] = new
    return {
        name: t.double() if t.dtype.is_floating_point else tensors[name] for name, t in out.items()
    }


def algebra_error(model: Any, grown: Any, *inputs: torch.Tensor) -> float:
    """Largest error of an output relative to its largest entry, both programs in float64."""
    with torch.no_grad():
        old = double_module(model.carrier)(*inputs)
        new = double_module(grown.carrier, recipes_in_double(model, grown))(*inputs)
    return relative(old, new)


def relative(old: list[Any], new: list[Any]) -> float:
    worst = 0.0
    for a, b in zip(old, new, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            assert a.shape == b.shape
            assert torch.isfinite(b[torch.isfinite(a)]).all()
            a, b = (torch.nan_to_num(t, posinf=0.0, neginf=0.0) for t in (a, b))
            worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    return worst


def session(path: Path, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, inputs: list[list[torch.Tensor]], *, optimised: bool) -> list[list[np.ndarray]]:
    """The outputs for every one of several inputs."""
    s = session(path, optimised=optimised)
    names = [i.name for i in s.get_inputs()]
    return [s.run(None, {n: t.numpy() for n, t in zip(names, x, strict=True)}) for x in inputs]


def deployment_ratio(
    old: Path,
    new: Path,
    reference: list[list[np.ndarray]],
    inputs: list[list[torch.Tensor]],
    *,
    optimised: bool,
) -> float:
    """Largest error of the grown file over the original's own, with the floor of docs/verify.md.

    Both errors are the largest over all inputs, output by output.
    """
    ours, theirs = run(old, inputs, optimised=optimised), run(new, inputs, optimised=optimised)
    worst = 0.0
    for k, first in enumerate(reference[0]):
        if first.dtype.kind != "f":
            continue
        own = error = size = 0.0
        for a, b, r in zip(ours, theirs, reference, strict=True):
            assert b[k].shape == a[k].shape
            finite = np.isfinite(r[k])
            assert (np.isfinite(b[k]) == finite).all()
            own = max(own, np.abs(a[k] - r[k])[finite].max())
            error = max(error, np.abs(b[k] - r[k])[finite].max())
            size = max(size, np.abs(r[k])[finite].max())
        worst = max(worst, error / max(own, 8 * EPS32 * size))
    return worst
