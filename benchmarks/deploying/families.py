"""What is deployed: four classes of today, each with the larger sizes that it grows to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf


@dataclass(frozen=True)
class Family:
    """``build(**sizes)`` makes the class; ``small`` and ``large`` are its sizes, ``request`` what meristem
    is asked for by ``method``, ``inputs`` one batch. ``optimizer`` is the model type of ONNX Runtime's own
    optimizer of transformers, where it has one. ``pays``: operators are added, and no limit is set."""

    name: str
    build: Callable[..., torch.nn.Module]
    small: Mapping[str, Any]
    large: Mapping[str, Any]
    request: Mapping[str, Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    optimizer: str = ""
    method: str = "preserve"
    pays: bool = False


def _decoder(*, hidden: int, heads: int, kv: int, mlp: int, layers: int) -> torch.nn.Module:
    config = tf.LlamaConfig(
        vocab_size=2048, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, head_dim=32, use_cache=False,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return tf.LlamaForCausalLM(config)


def _encoder(*, hidden: int, heads: int, mlp: int, layers: int) -> torch.nn.Module:
    config = tf.BertConfig(
        vocab_size=2048, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=128,
    )  # fmt: skip
    return tf.BertForMaskedLM(config)


def _vision(*, hidden: int, heads: int, mlp: int, layers: int) -> torch.nn.Module:
    config = tf.ViTConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, image_size=96, patch_size=12,
    )  # fmt: skip
    return tf.ViTForImageClassification(config)


def _convolutions(*, stem: int, stages: list[int]) -> torch.nn.Module:
    config = tf.ResNetConfig(embedding_size=stem, hidden_sizes=stages, depths=[2, 2, 2, 2])
    return tf.ResNetForImageClassification(config)


def _tokens() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(3, 2048, (2, 64))}


def _masked() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 64, dtype=torch.long)
    mask[1, 48:] = 0
    return _tokens() | {
        "attention_mask": mask,
        "token_type_ids": torch.zeros(2, 64, dtype=torch.long),
    }


def _images() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, 96, 96)}


def _photos() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(1, 3, 224, 224)}


FAMILIES = (
    Family(
        "decoder", _decoder,
        {"hidden": 192, "heads": 6, "kv": 3, "mlp": 512, "layers": 4},
        {"hidden": 256, "heads": 8, "kv": 4, "mlp": 768, "layers": 6},
        {"hidden": 256, "kv_heads": 4, "mlp": 768, "layers": 6}, _tokens, "gpt2",
    ),
    Family(
        "encoder", _encoder,
        {"hidden": 128, "heads": 4, "mlp": 512, "layers": 4},
        {"hidden": 256, "heads": 8, "mlp": 1024, "layers": 4},
        {"hidden": 256, "heads": 8, "mlp": 1024}, _masked, "bert", "lemon",
    ),
    # Norms behind the sums and no whole multiple: the default keeps them exact by operators that it adds.
    Family(
        "encoder, statistics", _encoder,
        {"hidden": 192, "heads": 6, "mlp": 768, "layers": 4},
        {"hidden": 256, "heads": 8, "mlp": 1024, "layers": 4},
        {"hidden": 256, "heads": 8, "mlp": 1024}, _masked, "bert", pays=True,
    ),
    Family(
        "vision transformer", _vision,
        {"hidden": 192, "heads": 6, "mlp": 768, "layers": 4},
        {"hidden": 256, "heads": 8, "mlp": 1024, "layers": 6},
        {"hidden": 256, "heads": 8, "mlp": 1024, "layers": 6}, _images, "vit",
    ),
    Family(
        "convolution net", _convolutions,
        {"stem": 32, "stages": [64, 128, 256, 512]},
        {"stem": 48, "stages": [96, 192, 384, 768]},
        {"channels": "x1.5", "hidden": "x1.5"}, _photos,
    ),
)  # fmt: skip
"""In the order of the table."""


__all__ = ["FAMILIES", "Family"]
