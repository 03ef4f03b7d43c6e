"""Encoders and encoder-decoders of transformers."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import nn

from .entry import (
    POSITIONS,
    SPLIT_HEADS,
    VOCABULARY,
    Entry,
    Inputs,
    free,
    images,
    kinds,
    padding_mask,
    token_ids,
)

_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY}
_BERT: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
_BART: dict[str, Any] = {
    **_COMMON,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "use_cache": False,
    "dropout": 0.1,
}
WHISPER_FRAMES = 22
"""Mel frames, twice ``max_source_positions``: Whisper takes no other length."""
CLIP_IMAGE = 12


def _bert(onnx: bool = False) -> nn.Module:
    return tf.BertForMaskedLM(tf.BertConfig(**_BERT))


def _bert_encoder(onnx: bool = False) -> nn.Module:
    return tf.BertModel(tf.BertConfig(**_BERT), add_pooling_layer=False)


def _roberta(onnx: bool = False) -> nn.Module:
    return tf.RobertaForMaskedLM(tf.RobertaConfig(**_BERT, type_vocab_size=1))


def _t5(gated: bool, onnx: bool) -> nn.Module:
    config = tf.T5Config(
        **_COMMON,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        decoder_start_token_id=0,
        use_cache=False,
    )
    model = tf.T5ForConditionalGeneration(config)
    if (
        gated
    ):  # version 1.1 checkpoints have a head of their own; the class ties whatever the config says
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model.requires_grad_(not onnx)  # KNOWN: torch.onnx fails on a mask with gradients


def _bart(onnx: bool = False) -> nn.Module:
    config = tf.BartConfig(**_BART, max_position_embeddings=POSITIONS)
    return tf.BartForConditionalGeneration(config)


def _whisper(onnx: bool = False) -> nn.Module:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = tf.WhisperConfig(
        **_BART,
        **ids,
        num_mel_bins=10,
        max_source_positions=WHISPER_FRAMES // 2,
        max_target_positions=POSITIONS,
        begin_suppress_tokens=None,
    )
    return tf.WhisperForConditionalGeneration(config)


def _clip(onnx: bool = False) -> nn.Module:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "projection_dim": 20,
        "bos_token_id": 1,
        "eos_token_id": VOCABULARY - 1,
    }
    vision = {
        "hidden_size": 30,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": CLIP_IMAGE,
        "patch_size": 4,
        "projection_dim": 20,
    }
    config = tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    return tf.CLIPModel(config)


def _masked(batch: int, seq: int, seed: int = 0) -> Inputs:
    return (), {
        "input_ids": token_ids(batch, seq, seed),
        "attention_mask": padding_mask(batch, seq),
    }


def _pair(batch: int, seq: int, seed: int = 0) -> Inputs:
    """The encoder gets ``seq`` tokens, the decoder three fewer (at least two)."""
    target = max(2, seq - 3)
    return (), {
        "input_ids": token_ids(batch, seq, seed),
        "attention_mask": padding_mask(batch, seq),
        "decoder_input_ids": token_ids(batch, target, seed + 1),
    }


def _speech(batch: int, seq: int, seed: int = 0) -> Inputs:
    features = torch.randn(batch, 10, WHISPER_FRAMES, generator=torch.Generator().manual_seed(seed))
    return (), {"input_features": features, "decoder_input_ids": token_ids(batch, seq, seed)}


def _captions(batch: int, seq: int, seed: int = 0) -> Inputs:
    """``batch`` captions, each with its end of text elsewhere, and one image more than captions."""
    ids = token_ids(batch, seq, seed, high=VOCABULARY - 1)
    mask = padding_mask(batch, seq)
    ids[torch.arange(batch), mask.sum(1) - 1] = VOCABULARY - 1
    return (), {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": images(batch + 1, CLIP_IMAGE, seed),
    }


_MASKED: dict[str, Any] = {"input_ids": free(2), "attention_mask": free(2)}
_PAIR: dict[str, Any] = {**_MASKED, "decoder_input_ids": free(2)}
_SPEECH: dict[str, Any] = {"input_features": free(1), "decoder_input_ids": free(2)}
_CAPTIONS: dict[str, Any] = {**_MASKED, "pixel_values": free(1)}
_HIDDEN = kinds("hidden")

ENTRIES = [
    Entry("bert", "bert", _bert, _masked, lambda: _MASKED, SPLIT_HEADS),
    Entry("bert_encoder", "bert", _bert_encoder, _masked, lambda: _MASKED, SPLIT_HEADS, _HIDDEN),
    Entry("roberta", "roberta", _roberta, _masked, lambda: _MASKED, SPLIT_HEADS),
    Entry(
        "t5", "t5", lambda onnx=False: _t5(False, onnx), _pair, lambda: _PAIR, SPLIT_HEADS, _HIDDEN
    ),
    Entry(
        "t5_untied",
        "t5",
        lambda onnx=False: _t5(True, onnx),
        _pair,
        lambda: _PAIR,
        SPLIT_HEADS,
        _HIDDEN,
    ),
    Entry("bart", "bart", _bart, _pair, lambda: _PAIR, SPLIT_HEADS, _HIDDEN),
    Entry("whisper", "whisper", _whisper, _speech, lambda: _SPEECH, SPLIT_HEADS, _HIDDEN),
    Entry("clip", "clip", _clip, _captions, lambda: _CAPTIONS, SPLIT_HEADS, _HIDDEN),
]
