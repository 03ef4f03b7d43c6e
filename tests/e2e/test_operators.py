"""Operators that need more than one rule, end to end: traced, grown, verified, written and read again.

Each row is a tiny network around operators of one family; every dimension that can grow is doubled,
through torch and through the network's own ONNX export.
"""

import logging
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meristem
from meristem.rewrite.request import by_name


class Net(nn.Module):
    """``run(net, *inputs)`` with layers by name."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def conv(inner, out, kernel=3):
    return nn.Conv2d(inner, out, kernel, padding=kernel // 2)


def resample(m, x):
    x = F.interpolate(F.relu(m.a(x)), scale_factor=2)
    x = F.interpolate(F.relu(m.b(x)), size=(5, 7), mode="bilinear", align_corners=False)
    x = F.interpolate(F.relu(m.c(x)), size=(8, 8), mode="bicubic", align_corners=True)
    return m.d(F.adaptive_avg_pool2d(x, 3))


def rearrange(m, x):
    x = F.relu(m.b(F.pixel_shuffle(F.relu(m.a(x)), 2)))
    x = F.pixel_unshuffle(F.relu(m.c(x)), 2)
    return m.d(F.unfold(x, 2, stride=2).transpose(1, 2))


def transpose(m, x):
    x = F.relu(m.n(m.t(F.relu(m.a(x)))))
    return m.d(F.relu(m.v(F.relu(m.u(x)))))


def volumes(m, x):
    x = F.avg_pool3d(m.t(F.relu(m.a(x))), 2)
    x = F.adaptive_max_pool3d(x, (1, 2, 2))
    return m.b(F.interpolate(x, scale_factor=2, mode="trilinear"))


def combine(m, x):
    h = torch.addcmul(m.a(x), m.b(x), m.c(x), value=0.5)
    h = m.d(F.threshold(h, 0.1, 0.0), h)
    y = h + 0
    y[:, torch.tensor([0, 2])] = 0.25
    rows = torch.argmax(x.sum((0, 2))) + torch.arange(5)
    y = torch.zeros_like(y).repeat(1, 2, 1).index_add(1, rows, y)
    return m.e(F.relu(y))


weight_norm = nn.utils.parametrizations.weight_norm
old_weight_norm = nn.utils.weight_norm

# How many dimensions grow, and the network.
SLOW = (
    "resampling", "products and rows", "volumes", "weight norms", "transposed convolutions",
)  # fmt: skip
ROWS = {
    "resampling": (3, lambda: Net(resample, a=conv(3, 6), b=conv(6, 8), c=conv(8, 5), d=conv(5, 4))),
    "pixel shuffles": (3, lambda: Net(
        rearrange, a=conv(3, 8), b=conv(2, 5), c=conv(5, 3), d=nn.Linear(48, 4),
    )),
    "transposed convolutions": (4, lambda: Net(
        transpose, a=conv(3, 6), t=nn.ConvTranspose2d(6, 8, 2, stride=2),
        n=nn.InstanceNorm2d(8, affine=True), v=nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4),
        u=nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1, groups=2), d=conv(4, 4),
    )),
    "volumes": (2, lambda: Net(
        volumes, a=nn.Conv3d(3, 4, 3, padding=1), t=nn.ConvTranspose3d(4, 6, 2, stride=2),
        b=nn.Conv3d(6, 4, 1),
    )),
    "weight norms": (2, lambda: Net(
        lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))),
        a=old_weight_norm(conv(3, 6)), b=weight_norm(conv(6, 5)), c=conv(5, 4),
    )),
    "products and rows": (2, lambda: Net(
        combine, a=nn.Linear(8, 6), b=nn.Linear(8, 6), c=nn.Linear(8, 6), d=nn.Bilinear(6, 6, 5),
        e=nn.Linear(5, 3),
    )),
}  # fmt: skip
INPUTS = {
    "volumes": (2, 3, 3, 4, 4),
    "products and rows": (2, 5, 8),
}


def grown_twice(model, count):
    """Every dimension that can grow, doubled."""
    sizes = {by_name(d.name): 2 * d.size for d in model.dimensions if d.growable}
    assert len(sizes) == count, [str(d) for d in model.dimensions]
    return meristem.grow(model, sizes)


@pytest.fixture
def network(request):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older weight norm is deprecated
        count, build = ROWS[request.param]
        module = build().eval()
    return count, module, torch.randn(INPUTS.get(request.param, (2, 3, 8, 8)))


@pytest.mark.filterwarnings("ignore:The tensor attribute self.a.weight was assigned")
@pytest.mark.parametrize(
    "network",
    [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in ROWS],
    indirect=True,
)
def test_a_doubled_module_is_the_same_function(network, tmp_path):
    count, module, x = network
    model = meristem.trace(module, (x,))
    grown = grown_twice(model, count)
    report = meristem.verify(model, grown)
    assert report.ok, report
    grown.save(tmp_path / "grown.onnx")
    assert meristem.load(tmp_path / "grown.onnx").dimensions


@pytest.mark.filterwarnings("ignore:The tensor attribute self.a.weight was assigned")
@pytest.mark.parametrize(
    "network",
    [n if n == "pixel shuffles" else pytest.param(n, marks=pytest.mark.full) for n in ROWS],
    indirect=True,
)
def test_a_doubled_file_is_the_same_function(network, tmp_path):
    count, module, x = network
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    torch.onnx.export(module, (x,), dynamo=True, verbose=False).save(tmp_path / "old.onnx")
    model = meristem.load(tmp_path / "old.onnx")
    report = meristem.verify(model, grown_twice(model, count))
    assert report.ok, report


def test_bags_grow():
    torch.manual_seed(0)
    bags = Net(
        lambda m, x: m.b(F.relu(m.a(m.e(x)))),
        e=nn.EmbeddingBag(20, 6), a=nn.Linear(6, 8), b=nn.Linear(8, 3),
    )  # fmt: skip
    model = meristem.trace(bags.eval(), (torch.randint(0, 20, (3, 5)),))
    report = meristem.verify(model, grown_twice(model, 3))
    assert report.ok, report


def test_a_shuffle_takes_whole_groups_of_channels():
    """Its channels come in groups of four, of which the operator knows the number."""
    torch.manual_seed(0)
    _, build = ROWS["pixel shuffles"]
    model = meristem.trace(build().eval(), (torch.randn(2, 3, 8, 8),))
    two = next(d for d in model.dimensions if d.growable and ("a.weight", 0) in d.weights)
    assert two.size == 2
    grown = meristem.grow(model, {by_name(two.name): 3})
    assert grown.state_dict()["a.weight"].shape[0] == 12
    inner = [d for d in model.dimensions if d.size == 2 and not d.growable]
    assert any("pixel_shuffle" in str(d.pinned) for d in inner)
