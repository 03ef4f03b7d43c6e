"""``compensate="weights"``: the user's own class with the larger sizes computes the same function.

The grown state dict is loaded strictly into an instance of the original class whose configuration has
the grown sizes and the same epsilons; both are compared in float64.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import meristem
from tests.e2e.measure import leaves, relative
from tests.zoo import build

# name -> (request, the configuration's fields that state the grown sizes)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"hidden": 48, "mlp": 60, "heads": 8, "kv_heads": 4, "layers": 3},
        {"hidden_size": 48, "intermediate_size": 60, "num_attention_heads": 8,
         "num_key_value_heads": 4, "num_hidden_layers": 3},
    ),
    "llama_tied": (
        {"hidden": 40, "mlp": 44},
        {"hidden_size": 40, "intermediate_size": 44},
    ),
    "gpt2": (
        {"hidden": 36, "heads": 6, "mlp": 60, "layers": 4},
        {"n_embd": 36, "n_head": 6, "n_inner": 60, "n_layer": 4},
    ),
    "bert": (
        {"hidden": 48, "heads": 8, "mlp": 64},
        {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 64},
    ),
    # Not its hidden size: the class multiplies the decoder's output by d_model ** -0.5, a constant of
    # the program that a class with another d_model computes anew.
    "t5": (
        {"heads": 6, "mlp": 60, "qk_dim": 8, "value_dim": 8, "layers": 3},
        {"num_heads": 6, "d_ff": 60, "d_kv": 8, "num_layers": 3, "num_decoder_layers": 3},
    ),
    "vit": (
        {"hidden": 36, "heads": 6, "mlp": 64, "layers": 4},
        {"hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 64,
         "num_hidden_layers": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("llama_tied", "vit") else pytest.param(n, marks=pytest.mark.full)
        for n in sorted(CASES)
    ],
)
def test_the_class_itself_computes_the_same(name: str) -> None:
    request, fields = CASES[name]
    module, args, kwargs = build(name)
    model = meristem.trace(module, args, kwargs, None)
    # One size for queries and keys, and one for values, follow from the configuration.
    grown = meristem.grow(model, request, compensate="weights", boundary="crop")
    config = copy.deepcopy(module.config)
    for field, value in fields.items():
        assert hasattr(config, field), field
        setattr(config, field, value)
    twin = type(module)(config).eval()
    if not getattr(config, "tie_word_embeddings", False) and hasattr(twin, "lm_head"):
        twin.lm_head.weight = torch.nn.Parameter(twin.lm_head.weight.detach().clone())
    state = grown.state_dict()
    twin.load_state_dict(state, strict=True)
    with torch.no_grad():
        old = leaves(module.double()(*double(args), **double(kwargs)))
        new = leaves(twin.double()(*double(args), **double(kwargs)))
    logits = [(a, b) for a, b in zip(old, new, strict=True) if a.shape == b.shape]
    assert logits, "no output keeps its shape"
    # Float32 storage of scaled weights is the only error: the class rounds its own copies.
    error = relative([a for a, _ in logits], [b for _, b in logits])
    assert error <= 2e-6, error
    assert not grown.plan.added or all("crop" in a for a in grown.plan.added)


def double(tree: Any) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, tree
    )


def test_locked_twins_are_reported() -> None:
    module, args, kwargs = build("bert")
    model = meristem.trace(module, args, kwargs, None)
    plan = meristem.plan(model, {"hidden": "x2"}, compensate="weights")
    assert plan.locked, "copies stay equal under training, and the plan says which"
    with pytest.raises(meristem.NotPreserved, match="mean"):
        meristem.plan(model, {"hidden": 36}, compensate="weights")
