"""FLOPs on the view are those that torch's own counter finds, from either carrier."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import meristem
from meristem.demo_model import Decoder, Sizes
from meristem.rewrite.flops import count_flops
from tests.zoo.handwritten import NanoGPT, TextEncoder


class Convolutions(nn.Module):
    """A stem, a depthwise layer, a dilated one with a stride, a transposed one, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.far = nn.Conv2d(8, 12, 3, stride=2, dilation=2)
        self.norm = nn.BatchNorm2d(12)
        self.back = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.far(self.depth(self.stem(x)))))
        return self.head(self.back(x).mean((2, 3)))


class Products(nn.Module):
    """Products of activations, and by einsum."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 7, 5))

    def forward(self, x):
        y = torch.einsum("bti,hio->bhto", x, self.w)
        return torch.einsum("bhto,bhso->bts", y, y)


TOKENS = torch.randint(0, 11, (2, 7))
CASES = {
    "decoder": (lambda: Decoder(Sizes(hidden=16, qk_dim=6, value_dim=5, mlp=20)), TOKENS),
    "written-out attention": (lambda: NanoGPT(manual=True), TOKENS),
    "encoder": (lambda: TextEncoder(True), TOKENS),
    "convolutions": (Convolutions, torch.randn(2, 3, 9, 11)),
    "products": (Products, torch.randn(2, 4, 7)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_count_is_that_of_torch(case, tmp_path):
    make, x = CASES[case]
    torch.manual_seed(0)
    module = make().eval()
    # The math kernels: what torch takes for attention on a CPU is counted nowhere, and with no_grad neither
    # is what it takes for a whole encoder.
    kernels = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, kernels:
        module(x)
    model = meristem.trace(module, (x,), None, None)
    counted = count_flops(model.graph)
    assert counted.total == counter.get_total_flops() == sum(counted.by.values()) > 0
    assert counted.inputs == {model.graph.inputs[0].name: tuple(x.shape)}
    model.save(tmp_path / "model.onnx")
    stored = count_flops(meristem.load(tmp_path / "model.onnx").graph)
    assert stored.total == counted.total
    assert not stored.unknown


def test_operators_without_semantics_are_named():
    x = torch.randn(3, 6, 6)
    module = nn.Module()
    module.forward = lambda x: torch.linalg.svdvals(x) @ torch.ones(6, 2)
    counted = count_flops(meristem.trace(module, (x,), None, None).graph)
    assert list(counted.unknown) == ["aten.linalg_svdvals"]
    assert counted.total == 2 * 3 * 6 * 2
