"""What every test stands on: no network, one thread per worker, one name per module."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: no test may reach for a hub
os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"

import gc
import sys

import pytest
import torch

torch.set_num_threads(1)  # the workers share the cores, and sums keep one order

# Tracing makes millions of objects that live to its end: a seventh of the time of all tests went into
# looking through them.
gc.set_threshold(100_000, 20, 20)

ROOMS = {
    "rewrite",
    "carriers",
    "frontends",
    "backends",
    "passes",
    "verify",
    "pages",
    "integrations",
}


@pytest.fixture(scope="session", autouse=True)
def one_name_per_module():
    """`import rewrite` from a checkout would give every class a second, unequal copy."""
    yield
    assert not ROOMS & set(sys.modules)


try:
    import torchvision  # noqa: F401
except ModuleNotFoundError:
    pass  # tests.zoo.without_torchvision imports timm all the same
except RuntimeError:
    # Built against another torch: its kernels cannot be loaded, and it cannot register fakes for
    # them unless somebody has declared them.
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
