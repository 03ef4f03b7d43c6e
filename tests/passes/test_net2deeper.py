"""Net2Deeper: layers that are the identity behind idempotent activations, in both carriers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import meristem
from meristem.passes.net2deeper import NET2DEEPER
from meristem.rewrite.axes import Term
from meristem.rewrite.errors import PinnedDimension, SelectorError, SizeError
from meristem.rewrite.made import Dirac, Root, made
from meristem.rewrite.plan import Plan
from tests.e2e.measure import algebra_error, leaves
from tests.passes.cases import LIMIT, dimension, traced, wish
from tests.zoo.entry import randomise

METHOD = "net2deeper"


class Convolutions(nn.Module):
    """A stem with stride, an even kernel in groups, a depthwise one with dilation, and a pooled head."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=not norms)
        self.norm = nn.BatchNorm2d(8) if norms else nn.Identity()
        self.grouped = nn.Conv2d(8, 12, 4, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, padding="same", dilation=2, groups=12)
        self.clamp, self.drop = nn.ReLU6(), nn.Dropout(0.5)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.abs(self.depthwise(self.drop(self.clamp(self.grouped(x)))))
        return self.head(x.mean((2, 3)))


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def mlp(act: Any = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), act(), nn.Linear(6, 3))


CASES = {
    "convolutions": (lambda: Convolutions(norms=False), (2, 3, 12, 12)),
    "batch norms": (lambda: Convolutions(norms=True), (2, 3, 12, 12)),
    "a sequence": (sequence, (3, 2, 7)),
    "an mlp over tokens": (mlp, (2, 5, 4)),
}


def model_of(name: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = CASES[name]
    module = build().eval()
    randomise(module)
    x = torch.randn(*shape)
    return meristem.trace(module, (x,)), x


def tiny(act: Any = nn.ReLU) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    return meristem.trace(mlp(act).eval(), (x,)), x


def test_targets() -> None:
    wanted = [wish(dimension("layers", Term(1)), "x3")]
    assert NET2DEEPER.solve(wanted, {}) == {wanted[0].dimension.name: 3}


def test_two_layers_by_hand() -> None:
    """h = relu(W1 u + b1) becomes relu(I h + 0), and so again; the other weights stay."""
    model, x = tiny()
    grown = meristem.grow(model, {"layers@0": 3}, method=METHOD)
    old, new = model.state_dict(), grown.state_dict()
    for name in ("0_grown1", "0_grown2"):
        assert torch.equal(new[f"{name}.weight"], torch.eye(6))
        assert not new[f"{name}.bias"].any()
    assert all(torch.equal(new[n], w) for n, w in old.items())
    h = torch.relu(x @ old["0.weight"].T + old["0.bias"])
    assert torch.equal(torch.relu(h @ new["0_grown1.weight"].T + new["0_grown1.bias"]), h)
    assert torch.equal(grown.module()(x), model.module()(x))


def test_kernels_groups_and_batch_norms_by_hand() -> None:
    model, _ = model_of("batch norms")
    grown = meristem.grow(model, {"layers": 2}, method=METHOD)
    old, new = model.state_dict(), grown.state_dict()
    for name, shape in (
        ("stem", (8, 8, 3, 3)),
        ("grouped", (12, 3, 3, 3)),  # 4 becomes 3: an even kernel has no middle
        ("depthwise", (12, 1, 3, 3)),
    ):
        kernel = new[f"{name}_grown1.weight"]
        assert kernel.shape == shape
        wanted = torch.zeros(shape)
        nn.init.dirac_(wanted, groups=shape[0] // shape[1])
        assert torch.equal(kernel, wanted)
    mean, var = old["norm.running_mean"], old["norm.running_var"]
    assert torch.equal(new["norm_grown1.running_mean"], mean)
    assert torch.equal(new["norm_grown1.running_var"], var)
    assert torch.equal(new["norm_grown1.bias"], mean)
    torch.testing.assert_close(new["norm_grown1.weight"], (var + 1e-5).sqrt())
    assert "running statistics of the layer before" in grown.plan.explain()


QUICK = ("batch norms", "a sequence")
ALL = [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in CASES]


@pytest.mark.parametrize("name", ALL)
def test_exact_through_both_carriers_and_grown_again(name: str, tmp_path: Any) -> None:
    model, x = model_of(name)
    grown = meristem.grow(model, {"layers": 3}, method=METHOD)
    assert algebra_error(model, grown, x) <= LIMIT
    wider = {d.kind: "x2" for d in grown.dimensions if d.kind in ("channels", "mlp")}
    again = meristem.grow(grown, {"layers": 2, **wider}, method=f"{METHOD}+pair")
    assert algebra_error(grown, again, x) <= LIMIT
    assert len(again.sites) == 2 * len(grown.sites) == 6 * len(model.sites)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    assert list(file.sites) == list(model.sites)
    plan = Plan.from_json(grown.plan.to_json())
    assert plan.clones == grown.plan.clones
    big = meristem.grow(file, plan)
    report = meristem.verify(file, big)
    assert report.ok, str(report)
    assert len(meristem.grow(big, {"layers": 2}, method=METHOD).sites) == 2 * len(big.sites)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in CASES])
def test_verification(name: str) -> None:
    model, _ = model_of(name)
    grown = meristem.grow(model, {"layers": 2}, method=METHOD)
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    assert "every new block learns" in str(report)
    module = grown.module()
    own = {n for n, _ in module.named_parameters()}
    running = {n for n in grown.plan.clones if "running" in n or "tracked" in n}
    assert set(grown.plan.clones) - running <= own


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.full) for n in ("resnet", "t5", "opt")],
)
def test_the_zoo(name: str) -> None:
    """Any model with an idempotent activation, also inside of residual branches."""
    model, inputs = traced(name)
    assert any(s.place in ("conv1.0", "conv1") for s in model.sites.values()) or name != "resnet"
    grown = meristem.grow(model, {"layers": 2}, method=METHOD)
    assert algebra_error(model, grown, *leaves(inputs)) <= LIMIT
    report = meristem.verify(model, grown)
    assert report.ok, str(report)


def test_recipes_are_read_back() -> None:
    for recipe in (Dirac((4, 1, 3, 5)), Dirac((6, 6)), Root(1e-5)):
        assert made(recipe.text) == recipe
    assert np.array_equal(Root(1.0).apply(np.full(2, 3.0)), np.full(2, 2.0))


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid])
def test_other_activations_are_refused(act: Any) -> None:
    model, _ = tiny(act)
    with pytest.raises(PinnedDimension, match="which is not idempotent") as error:
        meristem.plan(model, {"layers": 2}, method=METHOD)
    assert act.__name__.lower() in str(error.value)
    assert 'method="identity"' in str(error.value)


def test_bad_requests() -> None:
    model, _ = tiny()
    assert "layers" not in {d.kind for d in model.dimensions}, "only this method lists them"
    for sizes, options, error, why in (
        ({"layers@2": 2}, {}, SelectorError, "matches nothing"),
        ({"layers": 0}, {}, SizeError, "cannot become 0"),
        ({"layers": 2}, {"at": [0]}, SizeError, "the selector says where"),
        ({"layers": 2}, {"method": "identity"}, SelectorError, "no residual blocks"),
    ):
        with pytest.raises(error, match=why):
            meristem.plan(model, sizes, **{"method": METHOD, **options})
    none = meristem.trace(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))
    with pytest.raises(SelectorError, match="no linear layer or convolution"):
        meristem.plan(none, {"layers": 2}, method=METHOD)


def test_a_batch_norm_without_gain_is_refused() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, affine=False)
    module = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 3)).eval()
    model = meristem.trace(module, (torch.randn(3, 4),))
    with pytest.raises(PinnedDimension, match="no gain and bias of its own"):
        meristem.plan(model, {"layers": 2}, method=METHOD)


def test_a_layer_that_is_called_twice_gets_layers_of_its_own_behind_each_call() -> None:
    torch.manual_seed(0)
    shared, x = nn.Linear(4, 4), torch.randn(3, 4)
    module = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2)).eval()
    model = meristem.trace(module, (x,))
    grown = meristem.grow(model, {"layers": 2}, method=METHOD)
    assert algebra_error(model, grown, x) <= LIMIT
    new = {n for n in grown.state_dict() if "grown" in n and "weight" in n}
    assert new == {f"{i}_grown{k}.weight" for i in (0, 2) for k in (1, 2)}, "with both of its names"


def test_a_file_without_paths_and_with_a_batch_norm_of_its_own() -> None:
    """What other exporters write: plain names, and a batch norm that is not folded."""
    rng = np.random.default_rng(0)
    stored = {
        "K": rng.standard_normal((4, 2, 3, 3)),
        "gain": rng.standard_normal(4),
        "shift": rng.standard_normal(4),
        "mean": rng.standard_normal(4),
        "var": rng.uniform(0.5, 2, 4),
        "W": rng.standard_normal((3, 4)),
        "b": rng.standard_normal(3),
        "V": rng.standard_normal((3, 2)),
    }
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "K"], ["c"], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("BatchNormalization", ["c", "gain", "shift", "mean", "var"], ["n"], epsilon=1e-3),
        node("Relu", ["n"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "W", "b"], ["g"], transB=1),
        node("Clip", ["g", "low", "high"], ["h"]),
        node("MatMul", ["h", "V"], ["y"]),
    ]
    tensor = onnx.numpy_helper.from_array
    arrays = stored | {"low": np.array(-1.0), "high": np.array(2.0)}
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "plain",
        [info("x", kind, [2, 2, 8, 8])],
        [info("y", kind, [2, 2])],
        [tensor(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = meristem.load(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9))
    assert list(model.sites) == ["layers@K", "layers@W"]
    grown = meristem.grow(model, {"layers": 3}, method=METHOD)
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    new = grown.state_dict()
    np.testing.assert_allclose(new["gain_grown1"], np.sqrt(stored["var"] + 1e-3), rtol=1e-6)
    np.testing.assert_array_equal(new["shift_grown2"], stored["mean"].astype(np.float32))
    np.testing.assert_array_equal(new["W_grown1"], np.eye(3))
