"""Vocabulary and positions beside units that copies or gradients make."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError


class Speaker(nn.Module):
    """A table read by integers, one of positions, a block and a head that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(57, 6), nn.Embedding(9, 6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 57, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(x + self.down(torch.tanh(self.up(x))))


@pytest.mark.parametrize("method", ["clone:noise=0.2", "fuse", "gradmax", "clone+interpolate"])
def test_rows_of_tables_beside_units_that_are_copied_or_learned(method: str) -> None:
    """New words are no units: they grow as ``preserve`` has them, in a stage of their own."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 57, (2, 5))
    module = Speaker().double().eval()
    model = meristem.trace(module, (tokens,))
    asks: dict[str, Any] = {"vocabulary": "%64", "positions": 12, "mlp": 16}
    supplied: dict[str, Any] = {}
    if method == "gradmax":
        supplied["loss"] = lambda m: m(tokens)[..., :57].square().mean()
    grown = meristem.grow(
        model, asks, method=method, boundary="grow", given={"table.weight": "mean"}, **supplied
    )
    assert grown.plan.sizes == {"vocabulary": 64, "positions@places": 12, "mlp": 16}
    assert len(grown.plan.stages) == 2
    with torch.no_grad():
        error = float((grown.module()(tokens)[..., :57] - module(tokens)).abs().max())
    assert (error <= 1e-10) == (not grown.plan.approximate)
    assert bool(grown.plan.approximate) == ("interpolate" in method)
    rows = grown.state_dict()["table.weight"]
    assert torch.allclose(rows[57:], rows[:57].mean(0).expand(7, 6), rtol=0, atol=1e-15)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json()))
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in grown.state_dict().items())
    alone = {k: n for k, n in asks.items() if k != "mlp"}
    with pytest.raises(MeristemError, match=r"vocabulary|positions"):
        meristem.grow(model, alone, method=method.partition("+")[0], boundary="grow", **supplied)
