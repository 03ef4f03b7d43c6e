"""One correct growth of every family that verification must accept, in every float type."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

import meristem
from tests.e2e.test_methods import Convolutions, TwoDecoders
from tests.zoo import build

# What grows, by model: the zoo's, and two that it does not have.
FAMILIES: dict[str, dict[str, str]] = {
    "llama_tied": {"mlp": "x1.5", "kv_heads": "x2", "hidden": "x1.5", "layers": "+1"},
    "gpt2": {"mlp": "x1.5", "heads": "x1.5", "hidden": "x1.5", "layers": "+1"},
    "bert": {"mlp": "x2", "heads": "+2", "layers": "+1"},
    "t5": {"mlp": "x1.5", "heads": "x1.5", "layers": "+1"},
    "vit": {"mlp": "x1.5", "heads": "x1.5", "hidden": "x1.5"},
    "swin": {"mlp": "x1.5", "heads": "x2"},
    "resnet": {"channels": "x1.5"},
    "convnext": {"mlp": "x1.5", "hidden": "x1.5"},
    "convolutions": {"channels": "x1.5"},
    "two decoders": {"rank": "x1.5", "mlp": "x1.5"},
}
_OWN: dict[str, Any] = {
    "convolutions": (Convolutions, (2, 3, 8, 8)),
    "two decoders": (TwoDecoders, (4, 6)),
}


@cache
def grown_of(name: str) -> tuple[meristem.Model, meristem.Model]:
    """The traced model and its growth; nobody changes them."""
    if name in _OWN:
        torch.manual_seed(0)
        kind, shape = _OWN[name]
        model = meristem.trace(kind().eval(), (torch.randn(*shape),))
    else:
        module, args, kwargs = build(name, onnx=True)
        model = meristem.trace(module, args, kwargs)
    return model, meristem.grow(model, FAMILIES[name])
