"""Larger models of the same class of transformers: configs are solved, models are saved and loaded."""

from types import SimpleNamespace

import pytest
import torch

import meristem
from meristem.integrations import grow_pretrained
from meristem.integrations.config_search import solved
from tests.integrations.pretrained_models import (
    decoder,
    encoder,
    listed,
    pictures,
    summariser,
    tokens,
    unset,
    vision,
)


def settings(module, larger, *changes):
    """What is set in the configs that give the shapes of ``larger``, by (kind, before, after)."""
    grown = [SimpleNamespace(kind=k, before=b, after=a) for k, b, a in changes]
    shapes = {n: tuple(t.shape) for n, t in larger.state_dict().items()}
    return [
        {".".join(s.path): s.value for s in found}
        for _, found in solved(module, SimpleNamespace(changes=grown), shapes)
    ]


def lists(module, larger, *changes):
    shapes = {n: tuple(t.shape) for n, t in larger.state_dict().items()}
    grown = [SimpleNamespace(kind=k, before=b, after=a) for k, b, a in changes]
    config, _ = next(solved(module, SimpleNamespace(changes=grown), shapes))
    return config.layer_types


# -- the config alone: no program is traced ------------------------------------------------------------


def test_fields_are_found_whatever_they_are_called():
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6}
    changes = (("hidden", 32, 48), ("mlp", 48, 64), ("heads", 4, 6), ("layers", 2, 4))
    found = settings(decoder(), decoder(**sizes, num_hidden_layers=4, head_dim=8), *changes)
    assert found[0] == {**sizes, "num_hidden_layers": 4}
    larger = unset(n_embd=48, n_head=6, n_layer=3)
    changes = (("hidden", 32, 48), ("heads", 4, 6), ("layers", 2, 3), ("mlp", 128, 192))
    assert {"n_embd": 48, "n_head": 6, "n_layer": 3} in settings(unset(), larger, *changes)


def test_a_size_that_is_computed_is_set_where_it_is_another():
    assert settings(unset(), unset(n_inner=160), ("mlp", 128, 160))[0] == {"n_inner": 160}
    # The hidden size grows alone, and what is computed from it must not.
    found = settings(unset(), unset(n_embd=48, n_inner=128), ("hidden", 32, 48))
    assert found[0] == {"n_embd": 48, "n_inner": 128}


def test_sizes_that_are_equal_today_are_told_apart():
    """Layers and heads are four, and so is a field that is neither."""
    four = {"num_hidden_layers": 4, "pretraining_tp": 4}
    larger = decoder(num_hidden_layers=6, num_attention_heads=8, pretraining_tp=4, head_dim=8)
    found = settings(decoder(**four), larger, ("layers", 4, 6), ("heads", 4, 8))
    assert found[0] == {"num_hidden_layers": 6, "num_attention_heads": 8}
    # Shapes cannot say what else changed; the configs that say more come later.
    assert {**found[0], "pretraining_tp": 6} in found


def test_lists_go_on_with_the_layers_in_turns():
    kinds = ["sliding_attention", "full_attention"]
    small, larger = listed(layer_types=kinds), listed(num_hidden_layers=5)
    assert lists(small, larger, ("layers", 2, 5)) == [*kinds, *kinds, kinds[0]]


def test_heads_that_no_shape_shows_are_in_later_configs():
    """Both configs have the same shapes: which one computes the same is seen by running it."""
    found = settings(vision(), vision(hidden_size=48), ("hidden", 32, 48), ("heads", 4, 6))
    assert found[0] == {"hidden_size": 48}
    assert {"hidden_size": 48, "num_attention_heads": 6} in found


def test_shapes_that_no_config_gives_are_refused_with_a_weight():
    larger = encoder()
    query = larger.bert.encoder.layer[0].attention.self.query
    query.weight = torch.nn.Parameter(torch.zeros(40, 32))
    with pytest.raises(meristem.CarrierError, match=r"query\.weight, which is \(40, 32\)") as error:
        settings(encoder(), larger, ("heads", 4, 5))
    assert error.value.weights == ["bert.encoder.layer.0.attention.self.query.weight"]


# -- whole models --------------------------------------------------------------------------------------


def same(module, larger, example, limit=1e-5):
    with torch.no_grad():
        before, after = module(**example).logits, larger(**example).logits
    assert (before - after).abs().max() <= limit * before.abs().max()


def test_a_model_grows_is_saved_and_loaded(tmp_path):
    module = vision()
    grown = grow_pretrained(module, {"mlp": 64, "layers": 3}, pictures(), seed=5)
    assert grown.config == {"intermediate_size": 64, "num_hidden_layers": 3}
    assert (module.config.intermediate_size, grown.module.training) == (48, False)
    assert {c.after for c in grown.plan.changes} == {64, 3}
    grown.module.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path)
    for larger in (grown.module, again):
        same(module, larger, pictures())


def test_what_has_no_config_is_refused():
    for module, word in ((1, "int"), (torch.nn.Linear(2, 2), "Linear")):
        with pytest.raises(meristem.CarrierError, match=f"{word} is no model with a config"):
            grow_pretrained(module, {"mlp": "x2"}, torch.zeros(2, 2))


def test_a_class_that_computes_something_else_is_refused():
    """Its program has the factor of the small size, which the class takes from the config."""
    module = vision()

    class Scaled(type(module)):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * self.config.intermediate_size
            return out

    module.__class__ = Scaled
    with pytest.raises(meristem.NotPreserved, match=r"intermediate_size=64.*something else"):
        grow_pretrained(module, {"mlp": 64}, pictures())
    one = {"pixel_values": pictures()["pixel_values"][:1]}
    with pytest.raises(meristem.MeristemError, match="a batch of one"):
        grow_pretrained(module, {"mlp": 64}, one)


@pytest.mark.full
def test_a_decoder_generates_the_same_and_its_plan_is_repeated():
    module = decoder()
    sizes = {"hidden": 48, "mlp": 64, "heads": 6, "layers": 4}
    grown = grow_pretrained(module, sizes, tokens())
    assert module.config.use_cache
    assert grown.module.config.use_cache  # off only while it was traced
    how = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3}
    before, after = (m.generate(**tokens(), **how) for m in (module, grown.module))
    assert before.shape == (2, 10)
    assert torch.equal(before, after)
    plan = meristem.Plan.from_json(grown.plan.to_json())
    weights = grow_pretrained(module, plan, tokens()).module.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in grown.module.state_dict().items())


@pytest.mark.full
def test_an_encoder_and_a_decoder_with_configs_of_their_own():
    module = summariser()
    example = {**tokens(), "decoder_input_ids": tokens()["input_ids"]}
    grown = grow_pretrained(module, {"mlp": 64, "heads": 6}, example)
    assert grown.config == {"d_ff": 64, "num_heads": 6}
    assert module.decoder.config.use_cache
    assert grown.module.decoder.config.use_cache
    same(module, grown.module, example)
