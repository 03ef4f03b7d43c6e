"""A decoder and its growth, which no test changes."""

import pytest
import torch

import meristem
from meristem.demo_model import Decoder, Sizes


@pytest.fixture(scope="package")
def model():
    torch.manual_seed(0)
    module = Decoder(Sizes(hidden=16, heads=4, kv_heads=2, qk_dim=6, value_dim=5, mlp=20)).eval()
    return meristem.trace(module, (torch.randint(0, 256, (2, 7)),), None, None)


@pytest.fixture(scope="package")
def grown(model):
    return meristem.grow(model, {"mlp": 40, "heads": 6, "layers": 4}, at=(0, 1), seed=3)
