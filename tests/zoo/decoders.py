"""Causal language models of transformers, two layers each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf
from torch import nn

from .entry import JOINT_HEADS, POSITIONS, SPLIT_HEADS, VOCABULARY, Entry, free, kinds, token_ids

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "use_cache": False, **_IDS}
_LLAMA: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
_GROUPS = kinds("kv_heads group")
GROUPED = SPLIT_HEADS | _GROUPS


def _inputs(batch: int, seq: int, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), {"input_ids": token_ids(batch, seq, seed)}


def _dynamic() -> dict[str, Any]:
    return {"input_ids": free(2)}


def _entry(
    name: str,
    model: Callable[[], nn.Module],
    family: str = "",
    have: frozenset[str] = SPLIT_HEADS,
) -> Entry:
    def build(onnx: bool = False) -> nn.Module:
        return model()

    return Entry(name, family or name, build, _inputs, _dynamic, have)


def _gpt2() -> nn.Module:
    config = tf.GPT2Config(
        **_COMMON, n_embd=24, n_inner=40, n_layer=2, n_head=4, n_positions=POSITIONS
    )
    return tf.GPT2LMHeadModel(config)


def _opt(**changes: Any) -> nn.Module:
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "ffn_dim": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    options = (
        _COMMON
        | sizes
        | {"max_position_embeddings": POSITIONS, "word_embed_proj_dim": 24}
        | changes
    )
    return tf.OPTForCausalLM(tf.OPTConfig(**options))


def _gpt_neox() -> nn.Module:
    config = tf.GPTNeoXConfig(
        **_COMMON,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    )
    return tf.GPTNeoXForCausalLM(config)


def _gptj() -> nn.Module:
    config = tf.GPTJConfig(
        **_COMMON, n_embd=32, n_inner=40, n_layer=2, n_head=4, n_positions=POSITIONS, rotary_dim=6
    )
    return tf.GPTJForCausalLM(config)


def _bloom() -> nn.Module:
    config = tf.BloomConfig(
        **_COMMON, hidden_size=24, n_layer=2, n_head=4, hidden_dropout=0.1, attention_dropout=0.1
    )
    return tf.BloomForCausalLM(config)


def _falcon(**changes: Any) -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 32, "ffn_hidden_size": 40, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": POSITIONS}
    return tf.FalconForCausalLM(tf.FalconConfig(**(_COMMON | sizes | heads | changes)))


def _falcon_mq(onnx: bool = False) -> nn.Module:
    # KNOWN: torch.onnx cannot translate sdpa with one broadcast key/value head at opset 23
    return _falcon(multi_query=True, bias=True, attn_implementation="eager" if onnx else "sdpa")


def _llama(tie: bool) -> nn.Module:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**_LLAMA, head_dim=6, tie_word_embeddings=tie))


def _mistral() -> nn.Module:
    return tf.MistralForCausalLM(tf.MistralConfig(**_LLAMA, head_dim=6, sliding_window=4))


def _qwen2() -> nn.Module:
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**_LLAMA))


def _qwen3() -> nn.Module:
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**_LLAMA, head_dim=6))


def _gemma2() -> nn.Module:
    config = tf.Gemma2Config(**_LLAMA, head_dim=6, query_pre_attn_scalar=7, sliding_window=4)
    return tf.Gemma2ForCausalLM(config)


def _phi3() -> nn.Module:
    config = tf.Phi3Config(
        **_LLAMA, original_max_position_embeddings=POSITIONS, resid_pdrop=0.1, embd_pdrop=0.1
    )
    return tf.Phi3ForCausalLM(config)


def _cohere(qk_norm: bool) -> nn.Module:
    return tf.CohereForCausalLM(tf.CohereConfig(**_LLAMA, use_qk_norm=qk_norm))


def _mixtral(onnx: bool = False) -> nn.Module:
    config = tf.MixtralConfig(**_LLAMA, head_dim=6, num_local_experts=5, num_experts_per_tok=3)
    model = tf.MixtralForCausalLM(config)
    if onnx:  # the default, grouped_mm, is a custom operator that ONNX has no translation of
        model.set_experts_implementation("batched_mm")
    return model


_MIXTURE = (GROUPED - {"mlp"}) | kinds("experts expert_mlp")

ENTRIES = [
    _entry("gpt2", _gpt2),
    _entry("opt", _opt),
    _entry(
        "opt_postnorm",
        lambda: _opt(do_layer_norm_before=False, word_embed_proj_dim=20),
        "opt",
    ),
    _entry("gpt_neox", _gpt_neox),
    _entry("gptj", _gptj),
    _entry("bloom", _bloom, have=JOINT_HEADS),
    _entry(
        "falcon",
        lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2),
        have=JOINT_HEADS | _GROUPS,
    ),
    Entry("falcon_mq", "falcon", _falcon_mq, _inputs, _dynamic, JOINT_HEADS),
    _entry("llama", lambda: _llama(False), have=GROUPED),
    _entry("llama_tied", lambda: _llama(True), "llama", GROUPED),
    _entry("mistral", _mistral, have=GROUPED),
    _entry("qwen2", _qwen2, have=GROUPED),
    _entry("qwen3", _qwen3, have=GROUPED),
    _entry("gemma2", _gemma2, have=GROUPED),
    _entry("phi3", _phi3, have=GROUPED),
    _entry("cohere", lambda: _cohere(False), have=GROUPED),
    _entry("cohere_qknorm", lambda: _cohere(True), "cohere", GROUPED),
    Entry("mixtral", "mixtral", _mixtral, _inputs, _dynamic, _MIXTURE),
]
