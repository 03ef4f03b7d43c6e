"""Methods together: in one call, and one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import meristem
from tests.e2e.measure import algebra_error
from tests.e2e.test_methods import model_of

LIMIT = 1e-10


class Decoder(nn.Module):
    """Tokens to scores, blocks with the norm first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                8, 2, 12, 0.0, batch_first=True, norm_first=True, activation="gelu"
            )
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


def decoder() -> Any:
    torch.manual_seed(0)
    return meristem.trace(Decoder().eval(), (TOKENS,))


@pytest.mark.parametrize(
    ("method", "request_", "options"),
    [
        ("lemon+cancel", {"hidden": 13, "mlp": 20, "heads": 3, "layers": 4}, {}),
        pytest.param(
            "pair+identity", {"mlp": 16, "layers": 3}, {"at": [0]}, marks=pytest.mark.full
        ),
        pytest.param(
            "masked+identity", {"hidden": 12, "mlp": 16, "layers": 3}, {}, marks=pytest.mark.full
        ),
        ("net2wider+upcycle:top=2", {"mlp": 18, "experts": 4}, {}),
        (
            "clone:noise=0.2+identity",
            {"mlp": "x2", "heads": "x2", "layers": "x2"},
            {"at": "spread"},
        ),
        pytest.param(
            "lemon",
            {"vocabulary": "%8", "hidden": 13},
            {"boundary": "crop"},
            marks=pytest.mark.full,
        ),
    ],
)
def test_in_one_call(method: str, request_: dict[str, Any], options: dict[str, Any]) -> None:
    model = decoder()
    grown = meristem.grow(model, request_, method=method, **options)
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    back = meristem.Plan.from_json(grown.plan.to_json())
    again = meristem.grow(model, back)
    ours, theirs = grown.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_one_after_another() -> None:
    """Ten methods in a row; the approximate ones start a new function."""
    model = decoder()
    for method, request in (
        ("preserve", {"mlp": "x1.5"}),
        ("lemon", {"hidden": 13}),
        ("net2wider", {"heads": 3}),
        ("cancel", {"layers": 3}),
        ("pair", {"mlp": "+6"}),
        ("fuse", {"mlp": "x2"}),
        ("masked", {"mlp": "+4"}),
    ):
        grown = meristem.grow(model, request, method=method)
        assert algebra_error(model, grown, TOKENS) <= LIMIT, method
        model = grown if method != "masked" else grown.anneal(1)
    for method, request in (
        ("stack", {"layers": 6}),
        ("split", {"layers": 8}),
        ("rms", {"mlp": "x1.5"}),
        ("aki", {"mlp": "x1.5"}),
        ("fpi", {"hidden": "x1.5"}),
    ):
        grown = meristem.grow(model, request, method=method)
        assert grown.plan.approximate, method
        model = grown
    last = meristem.grow(model, {"mlp": "%8", "layers": 9})
    assert algebra_error(model, last, TOKENS) <= LIMIT


def test_net2deeper_with_width() -> None:
    model, inputs = model_of("convolutions")
    (site,) = [n for n in model.sites if "grouped" in n]
    request = {site: 2, "channels": "x1.5"}
    grown = meristem.grow(model, request, method="lemon+net2deeper")
    assert algebra_error(model, grown, *inputs) <= LIMIT


def test_approximate_depth_and_exact_width_say_what_is_what() -> None:
    model = decoder()
    grown = meristem.grow(model, {"mlp": "x1.5", "layers": 4}, method="lemon+stack")
    (why,) = grown.plan.approximate
    assert "in the order" in why
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"


def test_new_blocks_may_hold_fresh_weights() -> None:
    """What is zero stays zero, gains and biases are copies, matrices are drawn like their source."""
    model = decoder()
    grown = meristem.grow(model, {"layers": 3}, method="identity:insides=fresh", seed=3)
    assert algebra_error(model, grown, TOKENS) <= LIMIT
    new, old = grown.state_dict(), model.state_dict()
    up, was = new["blocks.2.linear1.weight"], old["blocks.1.linear1.weight"]
    assert not torch.equal(up, was)
    assert up.std() == pytest.approx(float(was.std()), rel=0.3)
    assert torch.equal(new["blocks.2.norm1.weight"], old["blocks.1.norm1.weight"])
    assert not new["blocks.2.linear2.weight"].any()
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    other = meristem.grow(model, {"layers": 3}, method="identity:insides=fresh", seed=4)
    assert not torch.equal(other.state_dict()["blocks.2.linear1.weight"], up)
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json()))
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in new.items())
