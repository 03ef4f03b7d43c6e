"""The residual split: by hand, its predicted error, and where it is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import NotPreserved
from tests.e2e.test_torch_zoo import traced


class Residuals(nn.Module):
    """x + scale * W2 tanh(W1 norm(x)), three times."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(spread) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Residual(nn.Module):
    def __init__(self, spread: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        with torch.no_grad():
            self.down.weight.mul_(spread)
            self.down.bias.mul_(spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(self.norm(x))))


def residuals(spread: float = 1.0) -> tuple[Any, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module, x = Residuals(spread).eval(), torch.randn(4, 16)
    return meristem.trace(module, (x,), dynamic_shapes=None), module, x


@pytest.mark.parametrize("target", [6, 4, 9])
def test_it_is_k_steps_of_a_kth(target: int) -> None:
    """A block that is there k times takes k steps of F / k; what is there once stays."""
    model, module, x = residuals()
    grown = meristem.grow(model, {"layers": target}, method="split")
    order = [i * 3 // target for i in range(target)]
    with torch.no_grad():
        z = x.double()
        for i in order:
            z = z + module.double().blocks[i](z) / order.count(i)
        got = grown.module().double()(x.double())
    torch.testing.assert_close(got, z, rtol=0, atol=1e-6)
    once = [i for i in range(3) if order.count(i) == 1]
    for i in once:
        name = f"blocks.{order.index(i)}.down.weight"
        assert torch.equal(grown.state_dict()[name], model.state_dict()[f"blocks.{i}.down.weight"])


def sites(report: meristem.Report) -> list[tuple[float, float]]:
    """Predicted and measured, from the words of the report."""
    row = re.compile(r"predicted error ([0-9.e+-]+) \(first order\), measured ([0-9.e+-]+)")
    found = (row.search(n) for n in report.levels["algebra"].notes)
    return [(float(m[1]), float(m[2])) for m in found if m]


@pytest.mark.parametrize("k", [2, 4])
def test_small_branches_err_as_predicted(k: int) -> None:
    """(k - 1) / (2 k) J_F F, which holds to a few percent where |F| is a hundredth of |x|."""
    model, module, x = residuals(0.03)
    grown = meristem.grow(model, {"layers": 3 * k}, method="split")
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word == "approximate"
    assert len(sites(report)) == 3
    for predicted, measured in sites(report):
        assert measured > 0
        assert predicted == pytest.approx(measured, rel=0.05)
    # The first site again, by autograd: J_F F at the first block.
    block = module.double().blocks[0]
    given = meristem.verify(model, grown, runtime="torch", inputs=[(x,)])
    wide = x.double()
    f = block(wide)
    _, along = torch.autograd.functional.jvp(block, wide, f)
    by_hand = (k - 1) / (2 * k) * along.abs().max() / (wide + f).abs().max()
    assert sites(given)[0][0] == pytest.approx(by_hand.item(), rel=0.01)


def test_two_branches_in_a_block() -> None:
    """The order of attention and MLP adds a commutator: still as predicted where branches are small."""
    model, _, _ = traced("nanogpt")
    with torch.no_grad():
        for name, tensor in model.carrier.tensors.items():
            if "c_proj" in name:
                tensor.mul_(0.003)
    try:
        report = meristem.verify(
            model, meristem.grow(model, {"layers": 4}, method="split"), runtime="torch"
        )
    finally:
        traced.cache_clear()
    found = sites(report)
    assert len(found) == 2
    for predicted, measured in found:
        assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.full
def test_gains_that_are_stored_less_one_are_split_whole() -> None:
    """w = gain - 1 becomes -1 + (1 + w) / k: norms after the branches, Gemma's way."""
    model, _, _ = traced("gemma2")
    grown = meristem.grow(model, {"layers": "x2"}, method="split")
    shifted = [n for n, e in grown.plan.weights.items() if e.shift == 1.0]
    assert shifted
    old, new = model.state_dict(), grown.state_dict()
    for n in shifted:
        moved = grown.plan.weights[n].apply(old[n].numpy())
        assert any(torch.equal(torch.from_numpy(moved), t) for t in new.values())
        torch.testing.assert_close(torch.from_numpy(moved), (old[n] - 1) / 2, rtol=1e-6, atol=1e-6)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word == "approximate", str(report)


def test_it_combines_with_width_and_binds_to_files(tmp_path: Path) -> None:
    model, _, x = residuals()
    path = model.save(tmp_path / "small.onnx")
    plan = meristem.plan(model, {"mlp": "x1.5", "layers": 6}, method="lemon+split")
    there = meristem.grow(meristem.load(path), plan)
    here = meristem.grow(model, plan)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(there.save(tmp_path / "big.onnx")))
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = here.module()(x)
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)
    deeper, wider = plan.steps
    assert set(deeper.weights["blocks.0.down.weight"].scales.values()) == {-math.log(2)}
    assert any(a.grows for a in wider.weights["blocks.0.down.weight"].axes)


def test_where_a_norm_follows_the_sum_it_is_refused() -> None:
    model, _, _ = traced("bert")
    with pytest.raises(
        NotPreserved, match=r"a norm, a gate or a factor follows its sums; use by=sublayer"
    ):
        meristem.plan(model, {"layers": 4}, method="split")


def test_without_residual_blocks_there_are_no_layers() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model = meristem.trace(plain, (torch.randn(2, 4),))
    with pytest.raises(meristem.SelectorError, match="layers"):
        meristem.plan(model, {"layers": 4}, method="split")
