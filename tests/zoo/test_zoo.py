"""The zoo itself: reproducible, nowhere constant, finite at every size."""

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.zoo import KNOWN, ZOO, build, inputs


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def _constant(weight: torch.Tensor) -> bool:
    return weight.numel() > 1 and bool((weight == weight.flatten()[0]).all())


@pytest.mark.parametrize("name", ZOO)
def test_an_entry_is_reproducible_and_uncomfortable(name):
    state = torch.random.get_rng_state()
    (module, args, kwargs), (again, _, _) = build(name), build(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not module.training
    twin = again.state_dict()
    assert all(torch.equal(value, twin[key]) for key, value in module.state_dict().items())
    assert not [key for key, weight in module.named_parameters() if _constant(weight)]
    for one, named in [(args, kwargs), inputs(name, 1, 4, seed=1), inputs(name, 3, 11, seed=2)]:
        leaves = pytree.tree_leaves(module(*one, **named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        assert tensors
        assert all(tensor.isfinite().all() and tensor.std() > 0.05 for tensor in tensors)


@pytest.mark.parametrize("name", ["gpt2", "timm_vit", "resnet"])
def test_a_fresh_entry_is_as_its_class_left_it(name):
    module, _, _ = build(name, fresh=True)
    assert [key for key, weight in module.named_parameters() if _constant(weight)]


def test_a_tie_stays_a_tie():
    tied, _, _ = build("t5")
    untied, _, _ = build("t5_untied")
    assert tied.lm_head.weight is tied.shared.weight
    assert untied.lm_head.weight is not untied.shared.weight


def test_known_names_entries():
    assert {name for name, _ in KNOWN} <= set(ZOO)
