"""The model zoo: small, seeded, uncomfortable instances of the real classes.

Two layers (encoder-decoders two and two), sizes as distinct as each class allows, every weight
random. Batch 2 and sequence 7 unless asked otherwise.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from typing import Any

import torch
from torch import nn

from . import decoders, encoders, handwritten, vision
from .entry import Entry, Shapes, free, randomise
from .known import KNOWN

__all__ = [
    "BATCH",
    "KNOWN",
    "RELATED",
    "SEQUENCE",
    "ZOO",
    "Entry",
    "build",
    "dynamic_shapes",
    "inputs",
]

BATCH, SEQUENCE = 2, 7

ZOO: dict[str, Entry] = {
    entry.name: entry
    for room in (decoders, encoders, vision, handwritten)
    for entry in room.ENTRIES
}

# Models of a family of which another is grown for every change; these by `make test-full`.
RELATED = frozenset({
    "bert_encoder", "clip", "cohere", "cohere_qknorm", "convnext_hf", "falcon", "gpt_neox",
    "gptj", "mistral", "phi3", "qwen2", "roberta", "t5_untied", "timm_swin", "timm_vit",
    "torch_encoder_bare", "torch_encoder_prenorm", "whisper",
})  # fmt: skip


def build(
    name: str,
    *,
    fresh: bool = False,
    seed: int = 0,
    onnx: bool = False,
    positions: bool = False,
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model in eval mode and example inputs.

    ``fresh`` leaves the initial state untouched; ``onnx`` chooses an implementation that
    torch.onnx can export where the default has none (see KNOWN); ``positions`` adds
    ``position_ids`` to the inputs of a rotary model. The global generator is left as it was.
    """
    entry = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = entry.build(onnx=onnx)
        if not fresh:
            randomise(module)
    args, kwargs = inputs(name, BATCH, SEQUENCE, seed=seed, positions=positions)
    return module.eval(), args, kwargs


def inputs(
    name: str, batch: int, seq: int, *, seed: int = 0, positions: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Valid random inputs of another size."""
    args, kwargs = ZOO[name].inputs(batch, seq, seed=seed)
    if positions:
        kwargs = kwargs | {"position_ids": torch.arange(seq).repeat(batch, 1)}
    return args, kwargs


def dynamic_shapes(name: str, *, positions: bool = False) -> Shapes:
    """Batch and sequence dynamic (for images the batch alone), in torch.export's structure."""
    shapes = ZOO[name].dynamic()
    return shapes | {"position_ids": free(2)} if positions and isinstance(shapes, dict) else shapes
