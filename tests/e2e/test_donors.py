"""Methods that read several tensors: new units from the next block (aki), several models in one (fuse)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import CarrierError, MeristemError, NotPreserved, SizeError
from tests.e2e.measure import algebra_error
from tests.e2e.test_methods import model_of
from tests.e2e.test_methods_train import OLD, ResidualPictures

LIMIT = 1e-10


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Residual(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.norm = nn.LayerNorm(6) if norm else nn.Identity()
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))))


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(7))


def residual(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    return meristem.trace(Residual(**options).eval(), (X,))


def doubled(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.module().double()(X.double())


def test_new_units_are_those_of_the_next_block() -> None:
    """bert2BERT's choice of units: U_l = [U_l; U_(l+1) of g], and of its own in the last block."""
    model = residual(0)
    grown = meristem.grow(model, {"mlp": 7}, method="aki")
    old, new = model.state_dict(), grown.state_dict()
    for i in range(3):
        name = f"mlp@blocks.{i}"
        g = torch.arange(3)
        assert name in {c.name for c in grown.plan.changes}
        following = min(i + 1, 2)
        for part in ("weight", "bias"):
            up = new[f"blocks.{i}.up.{part}"]
            assert torch.equal(up[:4], old[f"blocks.{i}.up.{part}"])
            assert torch.equal(up[4:], old[f"blocks.{following}.up.{part}"][g])
        counts = torch.bincount(torch.cat([torch.arange(4), g]))
        down = old[f"blocks.{i}.down.weight"] / counts
        torch.testing.assert_close(new[f"blocks.{i}.down.weight"], down[:, [0, 1, 2, 3, *g]])
    assert set(grown.plan.locked) == {
        f"blocks.2.{n}" for n in ("up.bias", "up.weight", "down.weight")
    }


def test_filters_and_batch_norms_of_the_next_block() -> None:
    """The same on residual blocks of convolutions: a channel comes with its statistics."""
    torch.manual_seed(0)
    module = ResidualPictures()
    x = torch.randn(5, 1, 8, 8)
    for _ in range(3):
        module(torch.randn(16, 1, 8, 8))
    model = meristem.trace(module.eval(), (x,))
    names = [d.name for d in model.dimensions if d.size == OLD and d.growable]
    assert len(names) == 2, "one for each block"
    grown = meristem.grow(model, dict.fromkeys(names, OLD + 3), method="aki")
    old, new = model.state_dict(), grown.state_dict()
    g = torch.arange(3)
    for i, following in ((0, 1), (1, 1)):
        leaves = [f"0.{n}" for n in ("weight", "bias")]
        leaves += [f"1.{n}" for n in ("weight", "bias", "running_mean", "running_var")]
        for leaf in leaves:
            made = new[f"blocks.{i}.{leaf}"]
            assert torch.equal(made[:OLD], old[f"blocks.{i}.{leaf}"])
            assert torch.equal(made[OLD:], old[f"blocks.{following}.{leaf}"][g])
        counts = torch.bincount(torch.cat([torch.arange(OLD), g]))
        down = (old[f"blocks.{i}.3.weight"] / counts[:, None, None])[:, [*range(OLD), *g]]
        torch.testing.assert_close(new[f"blocks.{i}.3.weight"], down)
    assert set(grown.plan.locked) >= {"blocks.1.0.weight", "blocks.1.3.weight"}
    assert not any(n.startswith("blocks.0") for n in grown.plan.locked)
    report = meristem.verify(model, grown, runtime="torch", inputs=[(x,)])
    assert report.levels["algebra"].word == "approximate", str(report)
    with torch.no_grad():
        error = (grown.module().double()(x.double()) - model.module().double()(x.double())).abs()
    assert report.levels["algebra"].worst.error == pytest.approx(float(error.max()), rel=1e-4)


def test_rows_and_columns_of_the_next_block() -> None:
    """Both axes of a weight grow: rows from the next block come with their columns divided."""
    model = residual(0)
    grown = meristem.grow(model, {"hidden": 12, "mlp": 8}, method="aki")
    old, new = model.state_dict(), grown.state_dict()
    up = new["blocks.0.up.weight"]
    columns, counts = [*range(6), *range(6)], 2
    torch.testing.assert_close(up[:4], (old["blocks.0.up.weight"][:, columns] / counts))
    torch.testing.assert_close(up[4:], old["blocks.1.up.weight"][:, columns] / counts)
    again = meristem.grow(model, {"mlp": 10}, method="aki")
    assert "blocks.0.up.weight" in again.plan.locked, "a unit of the next block is taken twice"


@pytest.mark.parametrize("method", ["aki", "rms"])
def test_the_reported_error_is_the_measured_one(method: str, tmp_path: Path) -> None:
    model = residual(0, norm=True)
    grown = meristem.grow(model, {"mlp": 7}, method=method)
    assert grown.plan.approximate
    report = meristem.verify(model, grown, runtime="torch", inputs=[(X,)])
    verdict = report.levels["algebra"]
    assert report.ok, str(report)
    assert verdict.word == "approximate"
    error = float((doubled(grown) - doubled(model)).abs().max())
    assert error > 1e-3
    assert verdict.measures[0].error == pytest.approx(error, rel=1e-5)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    big = meristem.grow(file, grown.plan)
    report = meristem.verify(file, big, inputs=[(X,)])
    assert report.ok, str(report)
    assert report.levels["algebra"].measures[0].error == pytest.approx(error, rel=1e-5)


def test_aki_needs_a_next_block() -> None:
    model, _ = model_of("two decoders")
    with pytest.raises(NotPreserved, match=r'no new unit has a counterpart.*method="fpi"'):
        meristem.plan(model, {"mlp": "x2"}, method="aki")


def test_variance_is_preserved() -> None:
    """SPARKLING's factor: old and new columns of what sums n' like terms, times sqrt(n / n')."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64))
    x = torch.randn(512, 64)
    model = meristem.trace(net.eval(), (x,))
    grown = meristem.grow(model, {"mlp": 640}, method="rms")
    old, new = model.state_dict(), grown.state_dict()
    assert torch.equal(new["0.weight"][:256], old["0.weight"])
    factor = (256 / 640) ** 0.5
    torch.testing.assert_close(new["2.weight"][:, :256], old["2.weight"] * factor)
    assert new["2.weight"][:, 256:].std() == pytest.approx(
        float(old["2.weight"].std()) * factor, 0.02
    )
    assert torch.equal(new["2.bias"], old["2.bias"])
    with torch.no_grad():
        before, after = (m.module()(x) - old["2.bias"] for m in (model, grown))
    assert after.std() == pytest.approx(float(before.std()), rel=0.05)
    assert not grown.plan.locked
    assert not grown.plan.saddles


def test_models_side_by_side() -> None:
    """Deep Fusion: diag(A, B) inside, [A, B] / 2 at the head, and so the mean of both results."""
    a, b = residual(0), residual(1)
    grown = meristem.grow(a, {"hidden": "x2", "mlp": "x2"}, method="fuse", models=[b])
    one, two, new = a.state_dict(), b.state_dict(), grown.state_dict()
    for name in ("up", "down"):
        key = f"blocks.1.{name}.weight"
        assert torch.equal(new[key], torch.block_diag(one[key], two[key]))
    assert torch.equal(new["stem.weight"], torch.cat([one["stem.weight"], two["stem.weight"]]))
    head = torch.cat([one["head.weight"], two["head.weight"]], 1) / 2
    torch.testing.assert_close(new["head.weight"], head)
    torch.testing.assert_close(new["head.bias"], (one["head.bias"] + two["head.bias"]) / 2)
    mean = (doubled(a) + doubled(b)) / 2
    assert float((doubled(grown) - mean).abs().max() / mean.abs().max()) < 1e-6  # float32 means
    report = meristem.verify(a, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"
    errors = [m.error for m in report.levels["algebra"].measures if not m.what.startswith("stored")]
    assert max(errors) < 1e-12, "against the mean of both models"
    assert not grown.plan.locked
    three = meristem.grow(a, {"hidden": 18, "mlp": 12}, method="fuse", models=[b, residual(2)])
    mean = (doubled(a) + doubled(b) + doubled(residual(2))) / 3
    assert float((doubled(three) - mean).abs().max() / mean.abs().max()) < 1e-6


def test_norms_over_several_models_are_not_exact_and_say_so() -> None:
    a, b = residual(0, norm=True), residual(1, norm=True)
    grown = meristem.grow(a, {"hidden": "x2", "mlp": "x2"}, method="fuse", models=[b])
    report = meristem.verify(a, grown, runtime="torch", inputs=[(X,)])
    error = float((doubled(grown) - (doubled(a) + doubled(b)) / 2).abs().max())
    assert error > 1e-4
    assert report.levels["algebra"].measures[0].error == pytest.approx(error, rel=1e-4)


def test_a_model_fused_with_itself_is_the_same_function(tmp_path: Path) -> None:
    model = residual(0, norm=True)
    request = {"hidden": "x2", "mlp": "x2"}
    for others in ((), [model]):
        grown = meristem.grow(model, request, method="fuse", models=others)
        assert not grown.plan.approximate
        error = (doubled(grown) - doubled(model)).abs().max()
        assert error <= 1e-6 if others else algebra_error(model, grown, X) <= LIMIT
        key = "blocks.1.up.weight"
        old = model.state_dict()[key]
        assert torch.equal(grown.state_dict()[key], torch.block_diag(old, old))
    report = meristem.verify(model, grown)
    assert report.levels["algebra"].word == "noise-floor", str(report)


@pytest.mark.full
def test_files_are_fused(tmp_path: Path) -> None:
    files = [meristem.load(residual(s).save(tmp_path / f"{s}.onnx")) for s in (0, 1)]
    plan = meristem.plan(
        residual(0), {"hidden": "x2", "mlp": "x2"}, method="fuse", models=[residual(1)]
    )
    grown = meristem.grow(files[0], meristem.Plan.from_json(plan.to_json()), models=files[1:])
    report = meristem.verify(files[0], grown)
    assert report.ok, str(report)
    assert {v.word for v in report.levels.values()} <= {"approximate", "noise-floor", "not checked"}
    torch_grown = meristem.grow(residual(0), plan, models=[residual(1)])
    for name, w in torch_grown.state_dict().items():
        assert (grown.state_dict()[name] == w.numpy()).all(), name


def test_what_cannot_be_fused() -> None:
    a, b = residual(0), residual(1)
    with pytest.raises(SizeError, match="ask for x2 of every dimension"):
        meristem.plan(a, {"hidden": "x3", "mlp": "x2"}, method="fuse", models=[b])
    small, _ = model_of("two decoders")
    with pytest.raises(NotPreserved, match="sets models of one program side by side, and model 1"):
        meristem.plan(a, {"hidden": "x2"}, method="fuse", models=[small])
    with pytest.raises(NotPreserved, match="need a whole multiple"):
        meristem.plan(a, {"hidden": 9}, method="fuse")
    with pytest.raises(MeristemError, match=r'models= are for method="fuse"'):
        meristem.plan(a, {"hidden": "x2"}, method="clone", models=[b])


class Other(Residual):
    def __init__(self, scale: float = 1.0, act: object = torch.tanh) -> None:
        super().__init__()
        self.scale, self.act = scale, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.blocks(self.stem(x)))) * self.scale


class Selected(nn.Module):
    """Two matrices in one parameter, which are read one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 4), nn.Linear(3, 2)
        self.both = nn.Parameter(torch.randn(2, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.up(x))
        return self.down(torch.relu(y @ self.both[0]) * torch.relu(y @ self.both[1]))


def test_axes_that_are_no_pair_are_not_fused_together() -> None:
    """Nothing shares the axis of a matrix that is selected first: zeros between parts would be missing."""
    torch.manual_seed(0)
    x = torch.randn(2, 5).double()
    model = meristem.trace(Selected().double().eval(), (x,))
    with pytest.raises(
        NotPreserved, match="of both 2 axes would grow, and they are not such a pair"
    ):
        meristem.plan(model, {"mlp": "x2"}, method="fuse")
    grown = model
    for name in [d.name for d in model.dimensions if d.kind == "mlp"]:
        grown = meristem.grow(grown, {name if "@" in name else f"{name}@": "x2"}, method="fuse")
    torch.testing.assert_close(grown.module()(x), model.module()(x), rtol=1e-10, atol=1e-10)


def test_models_of_another_program_are_not_fused() -> None:
    """Their weights alone would fit."""
    torch.manual_seed(0)
    one = meristem.trace(Other().eval(), (X,))
    request = {"hidden": "x2", "mlp": "x2"}
    for other, why in (
        (Other(act=torch.relu), "it computes relu in place of tanh"),
        (Other(scale=2.0), "a constant differs|an operator has other"),
        (Residual(), "fewer operators|in place of"),
    ):
        with pytest.raises(NotPreserved, match=rf"is another: .*({why})"):
            meristem.plan(one, request, method="fuse", models=[meristem.trace(other.eval(), (X,))])
    plan = meristem.plan(one, request, method="fuse", models=[meristem.trace(Other().eval(), (X,))])
    with pytest.raises(
        CarrierError, match="the plan fuses with 1 other models, and models= holds 0"
    ):
        meristem.grow(one, plan)
    for wrong in (one.module(), ["a"], None):
        with pytest.raises(MeristemError, match="models= is a list of models"):
            meristem.plan(one, request, method="fuse", models=wrong)
