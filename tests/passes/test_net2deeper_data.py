"""Batch norms of new layers with statistics that are measured on batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import CarrierError, MeristemError, NotPreserved
from meristem.rewrite.made import Entries, made
from meristem.rewrite.packed import pack
from tests.e2e.measure import algebra_error
from tests.passes.cases import LIMIT
from tests.passes.test_net2deeper import METHOD, Convolutions, tiny


def pictures() -> tuple[Any, nn.Module, list[tuple[torch.Tensor]]]:
    """A model whose running statistics are those of three batches, and the batches."""
    torch.manual_seed(0)
    module = Convolutions(norms=True).train()
    module.drop.p = 0.0
    batches = [(torch.randn(n, 3, 12, 12) * 2 + 1,) for n in (8, 8, 5)]
    module.norm.momentum = None  # a plain average
    with torch.no_grad():
        for (x,) in batches:
            module(x)
    module.eval()
    return meristem.trace(module, batches[0]), module, batches


def behind_the_norm(module: nn.Module, batches: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([torch.relu(module.norm(module.stem(x))) for (x,) in batches])


def test_they_are_mean_and_variance_of_all_batches() -> None:
    """gain = sqrt(var + eps), bias = mean (arXiv:1511.05641), of what the layer before gives."""
    model, module, batches = pictures()
    grown = meristem.grow(model, {"layers@stem": 3}, method=METHOD, batches=batches)
    h = behind_the_norm(module, batches)
    mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=False)
    new = grown.state_dict()
    for copy in ("norm_grown1", "norm_grown2"):
        torch.testing.assert_close(new[f"{copy}.running_mean"], mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(new[f"{copy}.running_var"], var, rtol=1e-5, atol=1e-6)
        assert torch.equal(new[f"{copy}.bias"], new[f"{copy}.running_mean"])
        gain = (new[f"{copy}.running_var"].double() + module.norm.eps).sqrt().float()
        assert torch.equal(new[f"{copy}.weight"], gain)
    assert algebra_error(model, grown, batches[2][0]) <= LIMIT
    assert "with statistics measured on batches" in grown.plan.explain()
    assert "of the layer before" not in grown.plan.explain()


def test_a_plan_keeps_them_and_needs_no_batches() -> None:
    model, _, batches = pictures()
    plan = meristem.plan(model, {"layers": 2}, method=METHOD, batches=batches)
    assert list(plan.statistics) == ["layers@stem"], "the others have no batch norm"
    again = meristem.Plan.from_json(plan.to_json())
    assert again == plan
    here = meristem.grow(model, again)
    there = meristem.grow(model, {"layers": 2}, method=METHOD, batches=iter(batches))
    assert all(torch.equal(t, there.state_dict()[n]) for n, t in here.state_dict().items())
    one = meristem.grow(model, again, batches=batches[:1])
    assert one.plan.statistics != plan.statistics, "given batches are measured anew"
    recipe = Entries(pack(np.array([1.0, 3.0])), root=1.0)
    assert made(recipe.text) == recipe
    assert np.array_equal(recipe.apply(np.zeros(2)), [np.sqrt(2), 2.0])


def test_train_mode_is_closer_with_data() -> None:
    """Where batch statistics are the measured ones, the new layer is the identity in train mode too."""
    model, module, batches = pictures()
    x = torch.cat([x for (x,) in batches])
    with torch.no_grad():
        old = module(x)
        errors = {}
        for name, given in (("data", batches), ("copied", None)):
            grown = meristem.grow(model, {"layers@stem": 3}, method=METHOD, batches=given).module()
            torch.testing.assert_close(grown(x), old, rtol=1e-4, atol=1e-5)
            for n, m in grown.named_modules():
                if "norm_grown" in n:
                    m.train()
            alone = grown(x)
            # The whole module in train mode, whose other norms normalise by the batch as well.
            drops = [p for p in grown.modules() if isinstance(p, nn.Dropout)]
            grown.train()
            for drop in drops:
                drop.eval()
            errors[name] = (float((alone - old).abs().max()), float((grown(x) - old).abs().max()))
    assert errors["data"][0] <= 1e-4, "the identity, but for rounding"
    assert errors["copied"][0] >= 100 * errors["data"][0], errors
    assert errors["data"][1] < errors["copied"][1] / 3, errors


def test_with_width_on_the_grown_channels() -> None:
    """In one request as in two: the new channels have statistics of their own."""
    model, _, batches = pictures()
    width = {"channels": "x2"}
    grown = meristem.grow(
        model, {"layers@stem": 2, **width}, method=f"{METHOD}+pair", batches=batches
    )
    assert algebra_error(model, grown, batches[0][0]) <= LIMIT
    wide = meristem.grow(model, width, method="pair")
    twice = meristem.grow(wide, {"layers@stem": 2}, method=METHOD, batches=batches)
    mean = grown.state_dict()["norm_grown1.running_mean"]
    assert mean.shape == (16,)
    assert torch.equal(mean, twice.state_dict()["norm_grown1.running_mean"])


def test_with_mixtures_after_it_and_masks() -> None:
    """Batches are for the growth that takes them; a mask that moves keeps what was measured."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), mlp, nn.Linear(6, 2))
    x = torch.randn(9, 4)
    model = meristem.trace(module.eval(), (x,))
    plan = meristem.plan(
        model, {"layers@0": 2, "experts@3": 3}, method=f"{METHOD}+upcycle", batches=[(x,)]
    )
    assert [s.method for s in plan.steps] == [METHOD, "upcycle"]
    mixed = meristem.grow(model, meristem.Plan.from_json(plan.to_json()))
    assert algebra_error(model, mixed, x) <= LIMIT
    with torch.no_grad():
        h = module[:3](x)
    name = "1_grown1.running_mean"
    torch.testing.assert_close(mixed.state_dict()[name], h.mean(0), rtol=1e-5, atol=1e-6)
    masked = meristem.grow(
        model, {"layers@0": 2, "mlp@3": 12}, method=f"masked+{METHOD}", batches=[(x,)]
    )
    assert torch.equal(masked.anneal(1).state_dict()[name], mixed.state_dict()[name])
    with pytest.raises(NotPreserved, match=r"masks.* between a layer and its activation"):
        meristem.plan(model, {"layers@0": 2, "mlp": 12}, method=f"masked+{METHOD}")


class Dense(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def dense() -> tuple[Any, nn.Module, list[Any]]:
    torch.manual_seed(0)
    module = Dense().eval()
    with torch.no_grad():
        module[1].running_mean.normal_()
        module[1].running_var.uniform_(0.5, 2)
    x = torch.randn(9, 4)
    return meristem.trace(module, (x,)), module, [(x,), {"input": x[:4] + 1}]


def as_file(module: nn.Module) -> Any:
    """The same model in a file that does not fold its batch norm, under the same names."""
    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("Gemm", ["input", "0.weight", "0.bias"], ["a"], transB=1),
        node(
            "BatchNormalization",
            ["a", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
            ["n"],
            epsilon=1e-5,
        ),
        node("Relu", ["n"], ["h"]),
        node("Gemm", ["h", "3.weight", "3.bias"], ["y"], transB=1),
    ]
    stored = {n: t.detach().numpy() for n, t in module.state_dict().items() if t.dim()}
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "dense",
        [info("input", kind, ["n", 4])],
        [info("y", kind, ["n", 3])],
        [tensor(a, n) for n, a in stored.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    return meristem.load(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9))


def test_both_carriers_measure_and_one_plan_serves_both() -> None:
    model, module, batches = dense()
    file = as_file(module)
    assert list(file.sites) == list(model.sites) == ["layers@0"]
    here = meristem.grow(model, {"layers": 2}, method=METHOD, batches=batches)
    bound = meristem.grow(file, meristem.Plan.from_json(here.plan.to_json()))
    arrays = [(batches[0][0].numpy(),), {"input": batches[1]["input"].numpy()}]
    there = meristem.grow(file, {"layers": 2}, method=METHOD, batches=arrays)
    new = {n: t for n, t in here.state_dict().items() if "grown" in n and t.dim()}
    assert {n for n in new if n.startswith("1_")} == {
        f"1_grown1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")
    }
    for name, t in new.items():
        np.testing.assert_array_equal(bound.state_dict()[name], t.numpy())
        np.testing.assert_allclose(there.state_dict()[name], t.numpy(), rtol=1e-5, atol=1e-6)
    for grown in (bound, there):
        report = meristem.verify(file, grown)
        assert report.ok, str(report)
    report = meristem.verify(model, here, runtime="torch")
    assert report.ok, str(report)


@pytest.mark.full
def test_a_file_that_folds_its_norms_takes_the_plan(tmp_path: Path) -> None:
    model, _, batches = dense()
    plan = meristem.plan(model, {"layers": 2}, method=METHOD, batches=batches)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    grown = meristem.grow(file, plan)
    assert {n for n in grown.state_dict() if "grown" in n} == {"0_grown1.weight", "0_grown1.bias"}
    assert meristem.verify(file, grown).ok
    with pytest.raises(MeristemError, match="no layer that grows has one"):
        meristem.grow(file, {"layers": 2}, method=METHOD, batches=batches)


def test_a_variance_of_zero_and_a_single_channel() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 2, 1))
    x = torch.randn(3, 2, 6, 6)
    model = meristem.trace(module.eval(), (x,))
    grown = meristem.grow(model, {"layers@0": 2}, method=METHOD, batches=[(torch.zeros_like(x),)])
    assert float(grown.state_dict()["1_grown1.running_var"]) < 1e-12
    assert algebra_error(model, grown, x) <= LIMIT


def test_bad_batches() -> None:
    model, _, batches = dense()
    (x,) = batches[0]
    for given, error, why in (
        ([], MeristemError, "batches= is empty"),
        ([(x, x)], CarrierError, "holds 2 tensors, the model takes 1"),
        ([(x[:, :3],)], CarrierError, "batch 1: input is of shape"),
        ([(torch.full_like(x, float("nan")),)], NotPreserved, "no finite mean and variance"),
    ):
        with pytest.raises(error, match=why):
            meristem.plan(model, {"layers": 2}, method=METHOD, batches=given)
    with pytest.raises(MeristemError, match='batches= are for method="net2deeper"'):
        meristem.plan(model, {"mlp": "x2"}, batches=batches)
    plain, x = tiny()
    with pytest.raises(MeristemError, match="no layer that grows has one"):
        meristem.plan(plain, {"layers": 2}, method=METHOD, batches=[(x,)])
    plan = meristem.plan(model, {"layers": 2}, method=METHOD, batches=batches)
    plan.statistics["layers@0"] = pack(np.ones((2, 5)))
    with pytest.raises(CarrierError, match="do not fit layers@0, which has 6 channels"):
        meristem.grow(model, plan)
