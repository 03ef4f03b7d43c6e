"""MSG's masked growth: exact at 0, masked norms in between, the plain larger model at 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import CarrierError, MeristemError, NotPreserved, OutputError
from tests.e2e.measure import algebra_error
from tests.e2e.test_methods import OWN, model_of, requests
from tests.e2e.test_torch_zoo import boundary_of
from tests.zoo import ZOO

LIMIT = 1e-10
QUICK: tuple[str, ...] = ()


class Net(nn.Module):
    def __init__(self, width: int = 6, units: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, units), nn.Linear(units, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.norm(x + self.down(torch.tanh(self.up(x)))))


X = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))
REQUEST: dict[str, int | str] = {"hidden": 10, "mlp": 7}


def net() -> Any:
    torch.manual_seed(0)
    return meristem.trace(Net().eval(), (X,))


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.module()(X)


def only_rows(model: Any, grown: Any) -> bool:
    """Are rows of tables all that is new? No constant index reads them, so nothing has to be masked."""
    taken = {
        (n, op.attrs["axis"])
        for w in model.graph.weights
        for op, i in w.uses
        if op.kind == "take" and i == 0
        for n in w.names
    }
    changed = ((n, r) for n, r in grown.plan.weights.items() if r.changes)
    return all(
        a in [x for m, x in taken if m == n]
        for n, r in changed
        for a, t in enumerate(r.axes)
        if t.grows
    )


@pytest.mark.parametrize(
    "name",
    [*OWN, *(n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in sorted(ZOO))],
)
def test_exact_at_zero(name: str) -> None:
    model, inputs = model_of(name)
    errors = {}
    for request in requests(model, "x1.5"):
        policy = boundary_of(model, request)[0]
        grown = meristem.grow(model, request, method="masked", boundary=policy)
        errors["+".join(request)] = algebra_error(model, grown, *inputs)
        assert grown.plan.added or only_rows(model, grown), "new units stand behind masks"
    assert max(errors.values()) <= LIMIT, errors


def test_what_stands_behind_a_mask_is_drawn() -> None:
    model = net()
    grown = meristem.grow(model, REQUEST, method="masked")
    new = grown.state_dict()
    assert float(new.pop("growth_mask")) == 0
    assert all(w.abs().min() > 0 for w in new.values() if w.dim() == 2)
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    assert {v.word for v in report.levels.values()} <= {"bit-exact", "noise-floor"}
    assert "their mask at 0.5" in " ".join(report.levels["training"].notes)


def test_a_masked_norm_by_hand() -> None:
    """mean = sum m x / sum m, var = sum m (x - mean)^2 / sum m, then gain and bias, and the mask again on
    what reads the norm."""
    model = net()
    t = 0.3
    grown = meristem.grow(model, {"hidden": 10}, method="masked").anneal(t)
    w = {n: p.double() for n, p in grown.state_dict().items()}
    assert float(w["growth_mask"]) == pytest.approx(t)
    m = torch.tensor([1.0] * 6 + [float(w["growth_mask"])] * 4, dtype=torch.float64)
    x = X.double() @ w["stem.weight"].T + w["stem.bias"]
    h = torch.tanh((x * m) @ w["up.weight"].T + w["up.bias"])
    x = x + h @ w["down.weight"].T + w["down.bias"]
    mean = (m * x).sum(1, keepdim=True) / m.sum()
    var = (m * (x - mean) ** 2).sum(1, keepdim=True) / m.sum()
    y = (x - mean) / (var + 1e-5).sqrt() * w["norm.weight"] + w["norm.bias"]
    by_hand = (y * m) @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(run(grown).double(), by_hand, rtol=0, atol=1e-5)


def test_at_one_the_model_is_the_plain_larger_one() -> None:
    model = net()
    grown = meristem.grow(model, REQUEST, method="masked")
    plain = grown.anneal(1)
    assert not plain.plan.added
    assert "growth_mask" not in plain.state_dict()
    larger = Net(10, 7).eval()
    larger.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(larger(X), run(plain))
    almost = run(grown.anneal(1 - 1e-6))
    torch.testing.assert_close(almost, run(plain), rtol=0, atol=1e-4)
    native = meristem.trace(larger, (X,))
    kinds = [[op.kind for op in m.graph.ops] for m in (plain, native)]
    assert kinds[0] == kinds[1]


def test_the_error_between_is_reported() -> None:
    model = net()
    half = meristem.grow(model, REQUEST, method="masked").anneal(0.5)
    assert half.plan.approximate == ["new coordinates are there by 0.5"]
    report = meristem.verify(model, half, runtime="torch", inputs=[(X,)])
    assert report.ok, str(report)
    verdict = report.levels["algebra"]
    assert verdict.word == "approximate"
    error = float((run(half).double() - run(model).double()).abs().max())
    assert verdict.measures[0].error == pytest.approx(error, rel=1e-3)


def test_training_while_the_mask_moves() -> None:
    model = net()
    grown = meristem.grow(model, REQUEST, method="masked")
    module = grown.module()
    target = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    first = None
    for step in range(60):
        module.growth_mask.fill_(min(step / 30, 1))
        value = (module(X) - target).square().mean()
        first = first or value.item()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.item() < first / 2
    half = grown.anneal(np.float32(0.5), module.state_dict())
    module.growth_mask.fill_(0.5)
    with torch.no_grad():
        torch.testing.assert_close(run(half), module(X), rtol=0, atol=1e-5)
    module.growth_mask.fill_(1)
    with pytest.raises(NotPreserved, match=r"carry it to 1 with anneal\(1\), then grow again"):
        meristem.grow(half, {"mlp": 9})
    final = grown.anneal(1, module.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(run(final), module(X), rtol=0, atol=1e-5)
    assert not final.plan.added
    start = grown.state_dict()
    assert torch.equal(start["up.weight"][:4, :6], model.state_dict()["up.weight"]), "not touched"
    again = meristem.grow(final, {"mlp": 9})
    torch.testing.assert_close(run(again), run(final))


def test_files_are_masked_too(tmp_path: Path) -> None:
    model = net()
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    plan = meristem.plan(model, REQUEST, method="masked")
    grown = meristem.grow(file, meristem.Plan.from_json(plan.to_json()))
    report = meristem.verify(file, grown)
    assert report.ok, str(report)
    assert report.levels["algebra"].word != "approximate"
    torch_side = meristem.grow(model, plan)
    for t in (0.0, 0.5, 1.0):
        path = grown.anneal(t).save(tmp_path / f"{t}.onnx")
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
        np.testing.assert_allclose(got, run(torch_side.anneal(t)).numpy(), rtol=0, atol=1e-5)
    with pytest.raises(OutputError, match="weights are trained in torch"):
        grown.anneal(1, {})


def test_what_cannot_be_annealed() -> None:
    model = net()
    plain = meristem.grow(model, REQUEST)
    with pytest.raises(MeristemError, match='only what method="masked" grew has masks'):
        plain.anneal(0.5)
    grown = meristem.grow(model, REQUEST, method="masked")
    for t in (-0.1, 1.5, "x", None):
        with pytest.raises(MeristemError, match="the mask goes from 0 to 1"):
            grown.anneal(t)
    with pytest.raises(MeristemError, match=r"weights= is a mapping of tensors by name, not str"):
        grown.anneal(1, "x")
    state = grown.module().state_dict()
    state["up.weight"] = state["up.weight"][:5]
    with pytest.raises(CarrierError, match=r"up\.weight is"):
        grown.anneal(1, state)
    with pytest.raises(CarrierError, match="only on one side"):
        grown.anneal(1, {})
