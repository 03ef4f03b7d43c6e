"""Language models as they are exported for decoding: one key and value of every layer in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

import meristem
from tests.zoo import build

LAYERS, PAST, PART = 2, 5, 3


class Cached(nn.Module):
    """Tokens, mask, positions and a cache in; logits and the longer cache out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any
    ) -> Any:
        cache = DynamicCache([tuple(p) for p in past_key_values], config=self.model.config)
        out = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        return out.logits, [(x.keys, x.values) for x in out.past_key_values.layers]


def example(config: Any) -> tuple[Any, ...]:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rng = torch.Generator().manual_seed(0)
    past = [
        tuple(torch.randn(2, heads, PAST, size, generator=rng) for _ in range(2))
        for _ in range(LAYERS)
    ]
    tokens = torch.randint(3, 57, (2, PART), generator=rng)
    mask = torch.ones(2, PAST + PART, dtype=torch.long)
    return tokens, mask, torch.arange(PAST, PAST + PART).repeat(2, 1), past


def shapes() -> tuple[Any, ...]:
    free = Dim.DYNAMIC
    both = {0: free, 1: free}
    return both, both, both, [({0: free, 2: free}, {0: free, 2: free}) for _ in range(LAYERS)]


def cached(name: str) -> meristem.Model:
    """A model of the zoo with its cache, traced."""
    module, _, _ = build(name)
    return meristem.trace(Cached(module), example(module.config), None, shapes())


def cached_file(name: str, path: Path) -> Path:
    """The same by the exporter, with the names that such files have."""
    module, _, _ = build(name, onnx=True)
    pairs = [(i, w) for i in range(LAYERS) for w in ("key", "value")]
    with torch.no_grad():
        written = torch.onnx.export(
            Cached(module), example(module.config), dynamo=True, opset_version=20,
            dynamic_shapes=shapes(), verbose=False,
            input_names=["input_ids", "attention_mask", "position_ids"]
            + [f"past_key_values.{i}.{w}" for i, w in pairs],
            output_names=["logits"] + [f"present.{i}.{w}" for i, w in pairs],
        )  # fmt: skip
    assert written is not None
    written.save(str(path))
    return path
