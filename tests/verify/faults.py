"""Mistakes that a grown model may have, made on purpose: in torch programs and in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

import meristem
from meristem.carriers.aten_values import place_of
from meristem.verify.locate import LayerAgreement

GROWTH = {"hidden": "x1.5", "mlp": "x1.5", "heads": "x1.5"}


@dataclass(frozen=True)
class Site:
    """Where a model of the zoo is spoilt. ``heads`` is a weight whose ``axis`` counts heads of ``size``
    first; ``rotary`` holds frequencies."""

    growth: dict[str, str]
    weight: str
    bias: str
    norm: str
    heads: str
    axis: int
    size: int
    first: str
    last: str
    rotary: str = ""


SITES = {
    "gpt2": Site(
        GROWTH, "transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.bias",
        "transformer.h.0.ln_2", "transformer.h.0.attn.c_attn.weight", 1, 6,
        "transformer.wte.weight", "transformer.wte.weight",
    ),
    "qwen2": Site(
        GROWTH, "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.v_proj.bias",
        "model.layers.1.input_layernorm", "model.layers.0.self_attn.q_proj.weight", 0, 6,
        "model.embed_tokens.weight", "lm_head.weight", "model.rotary_emb.inv_freq",
    ),
    "bert": Site(
        {"mlp": "x1.5", "heads": "x1.5"}, "bert.encoder.layer.1.intermediate.dense.weight",
        "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.0.output.LayerNorm",
        "bert.encoder.layer.0.attention.self.query.weight", 0, 6,
        "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight",
    ),
    "vit": Site(
        GROWTH, "vit.layers.1.mlp.fc1.weight", "vit.layers.0.mlp.fc2.bias",
        "vit.layers.0.layernorm_after", "vit.layers.0.attention.q_proj.weight", 0, 6,
        "vit.embeddings.patch_embeddings.projection.weight", "classifier.weight",
    ),
}  # fmt: skip


def located(report: meristem.Report) -> LayerAgreement:
    """Where the report says that the function parts."""
    (found,) = [a for a in report.levels["algebra"].layers if a.located]
    return found


def module_of(weight: str) -> str:
    return weight.rpartition(".")[0]


# -- torch ------------------------------------------------------------------------------------------


def swap(tensor: torch.Tensor, axis: int, size: int) -> None:
    """The first two heads change places."""
    with torch.no_grad():
        first, second = (tensor.narrow(axis, at, size).clone() for at in (0, size))
        tensor.narrow(axis, 0, size).copy_(second)
        tensor.narrow(axis, size, size).copy_(first)


def set_epsilon(grown: Any, place: str, factor: float) -> None:
    """Multiply the small constant of the norm of that module."""
    for node in grown.carrier.graph.nodes:
        small = [i for i, a in enumerate(node.args) if isinstance(a, float) and 0 < a < 1e-2]
        if place_of(node) == place and small:
            args = list(node.args)
            # 1e-12 and half as much again are one number to float64 beside a variance
            args[small[0]] = max(args[small[0]] * factor, 1e-5)
            node.args = tuple(args)
            grown.carrier.program.graph_module.recompile()
            return
    raise AssertionError(f"no epsilon in {place}")


def replace_tensor(grown: Any, name: str, tensor: torch.Tensor) -> None:
    """Store another tensor under a name, of whatever length."""
    program = grown.carrier.program
    for stored in (program.state_dict, program.constants):
        if name in stored:
            stored[name] = tensor
            return
    raise AssertionError(f"no {name}")


# -- files ------------------------------------------------------------------------------------------


def edit(path: Path, change: Any) -> None:
    """Rewrite a file by a change of its onnx_ir model."""
    model = ir.load(path)
    change(model.graph)
    ir.save(model, path)


def edit_weight(path: Path, name: str, change: Any) -> None:
    """Rewrite one initialiser."""

    def rewrite(graph: ir.Graph) -> None:
        value = graph.initializers[name]
        assert value.const_value is not None
        data = np.array(value.const_value.numpy())
        data = change(data)
        value.const_value = ir.tensor(data, name=name)
        value.shape = ir.Shape(data.shape)

    edit(path, rewrite)


def edit_epsilon(path: Path, number: int, factor: float) -> str:
    """Multiply the epsilon of a norm; the name of the norm's result."""
    found = []

    def rewrite(graph: ir.Graph) -> None:
        norms = [n for n in graph if n.op_type in ("LayerNormalization", "RMSNormalization")]
        node = norms[number]
        old = node.attributes["epsilon"].as_float()
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", old * factor)
        found.append(str(node.outputs[0].name))

    edit(path, rewrite)
    return found[0]


def planned(path: Path, plan: Any) -> meristem.Model:
    """A file read again, with the plan that made it."""
    model = meristem.load(path)
    model.plan = plan
    return model
