"""Small models of transformers, made from configs, and inputs for them."""

import torch
import transformers as hf

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def decoder(**sizes):
    """Grouped queries, rotary positions, gated MLPs."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(**{**SMALL, **IDS, "num_key_value_heads": 2, **sizes})
    return hf.LlamaForCausalLM(config).eval()


def listed(**sizes):
    """Its config has a list with an entry for each layer."""
    torch.manual_seed(0)
    config = hf.Qwen2Config(**{**SMALL, **IDS, "num_key_value_heads": 2, **sizes})
    return hf.Qwen2ForCausalLM(config).eval()


def unset(**sizes):
    """The size of its MLP is four times the hidden size unless it is given."""
    torch.manual_seed(0)
    given = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**given, **IDS, **sizes})).eval()


def encoder(**sizes):
    torch.manual_seed(0)
    return hf.BertForSequenceClassification(
        hf.BertConfig(**{**SMALL, "num_labels": 3, **sizes})
    ).eval()


def vision(**sizes):
    torch.manual_seed(0)
    given = {n: SMALL[n] for n in SMALL if n.startswith(("hidden", "inter", "num"))}
    config = hf.ViTConfig(**{**given, "image_size": 16, "patch_size": 8, "num_labels": 3, **sizes})
    return hf.ViTForImageClassification(config).eval()


def summariser(**sizes):
    """An encoder and a decoder, each with a copy of the config."""
    torch.manual_seed(0)
    given = {
        "vocab_size": 64,
        "d_model": 32,
        "d_ff": 48,
        "d_kv": 8,
        "num_layers": 2,
        "num_heads": 4,
    }
    config = hf.T5Config(**{**given, "decoder_start_token_id": 0, **sizes})
    return hf.T5ForConditionalGeneration(config).eval()


def tokens(rows=2, columns=7):
    ids = torch.randint(3, 64, (rows, columns), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pictures():
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
