"""Vocabulary: old tokens keep their function, new ones are accepted; what new rows hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.passes import WIDTH_PASSES
from meristem.rewrite.errors import MeristemError, NotPreserved, PinnedDimension, SelectorError
from tests.e2e.measure import algebra_error, leaves, relative, session
from tests.e2e.test_torch_zoo import traced
from tests.passes.cases import LIMIT, reached

ROWS, WIDTH = 13, 6
MODELS = ("gpt2", "bert", "t5", "t5_untied", "llama", "bart", "gemma2", "whisper")


class Words(nn.Module):
    """A language model of one layer, tied or not."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.last = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(self.last(x))


def words(tied: bool) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(0, ROWS, (2, 5))
    return meristem.trace(Words(tied).eval(), (tokens,)), tokens


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[bool, list[Any]]:
    """The model from torch, and from its file; by whether it is tied."""
    folder = tmp_path_factory.mktemp("words")
    models = {tied: words(tied)[0] for tied in (True, False)}
    return {t: [m, meristem.load(m.save(folder / f"{t}.onnx"))] for t, m in models.items()}


def array(weight: Any) -> np.ndarray:
    return np.asarray(weight.detach() if isinstance(weight, torch.Tensor) else weight)


def logits(model: Any, tokens: torch.Tensor, folder: Path) -> np.ndarray:
    """What the module says; of a file what ONNX Runtime says."""
    if model.side.name == "torch":
        with torch.no_grad():
            return model.module()(tokens).numpy()
    runtime = session(model.save(folder / "grown.onnx"))
    return runtime.run(None, {runtime.get_inputs()[0].name: tokens.numpy()})[0]


def test_the_pass_and_padding_to_a_multiple():
    assert WIDTH_PASSES["vocabulary"].name == "vocabulary"
    assert reached("vocabulary", 57, "%64") == 64
    assert reached("vocabulary", 64, "%64") == 64
    assert reached("vocabulary", 65, "%64") == 128


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("carrier", [0, 1], ids=["torch", "onnx"])
def test_old_tokens_keep_their_scores_and_new_ones_are_accepted(tied, carrier, both, tmp_path):
    _, tokens = words(tied)
    model = both[tied][carrier]
    before = logits(model, tokens, tmp_path)
    grown = meristem.grow(model, {"vocabulary": "%8"}, boundary="grow")
    assert {c.after for c in grown.plan.changes} == {16}
    after = logits(grown, tokens, tmp_path)
    assert after.shape == (2, 5, 16)
    np.testing.assert_allclose(after[..., :ROWS], before, rtol=1e-5, atol=1e-6)
    new = torch.full((2, 5), 15)
    assert np.isfinite(logits(grown, new, tmp_path)).all()
    assert carrier == 0 or meristem.verify(model, grown).ok
    cropped = meristem.grow(model, {"vocabulary": "%8"}, boundary="crop")
    assert logits(cropped, new, tmp_path).shape == (2, 5, ROWS)
    np.testing.assert_allclose(logits(cropped, tokens, tmp_path), before, rtol=1e-5, atol=1e-6)


def test_both_tables_of_an_untied_model_are_its_vocabulary():
    model, _ = words(tied=False)
    assert [d.name for d in model.dimensions if d.kind == "vocabulary"] == [
        "vocabulary@embed",
        "vocabulary@head",
    ]
    with pytest.raises(PinnedDimension, match=r"of this request can grow: 'vocabulary@embed'"):
        meristem.grow(model, {"vocabulary": 16})
    alone = meristem.grow(model, {"vocabulary@embed": 16})
    assert alone.module()(torch.full((2, 5), 15)).shape == (2, 5, ROWS)


@pytest.mark.parametrize("carrier", [0, 1], ids=["torch", "onnx"])
def test_new_rows_are_the_mean_of_the_old(carrier, both):
    model = both[True][carrier]
    (name,) = {n for d in model.dimensions if d.kind == "vocabulary" for n, _ in d.weights}
    grown = meristem.grow(model, {"vocabulary": 16}, boundary="grow", given={name: "mean"})
    rows = array(grown.state_dict()[name])
    mean = rows[:ROWS].astype(np.float64).mean(0)
    np.testing.assert_allclose(rows[ROWS:], np.tile(mean, (3, 1)), rtol=1e-6)
    assert carrier == 0 or meristem.verify(model, grown).ok


def test_the_mean_is_that_of_the_scaled_rows():
    """Under fixed epsilons a wider stream carries a factor, and so do the rows."""
    model, tokens = words(tied=True)
    grown = meristem.grow(
        model,
        {"vocabulary": 16, "hidden": 9},
        boundary="grow",
        compensate="weights",
        given={"embed.weight": "mean"},
    )
    old, rows = (m.state_dict()["embed.weight"] for m in (model, grown))
    torch.testing.assert_close(rows[:ROWS, :WIDTH], old * 1.5**0.5)
    mean = rows[:ROWS, :WIDTH].double().mean(0).float()
    torch.testing.assert_close(rows[ROWS:, :WIDTH], mean.tile(3, 1))
    assert not rows[:, WIDTH:].any()
    again = meristem.grow(model, {"hidden": 9}, compensate="weights")
    with torch.no_grad():
        new, same = (m.module()(tokens)[..., :ROWS] for m in (grown, again))
    torch.testing.assert_close(new, same)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("carrier", [0, 1], ids=["torch", "onnx"])
def test_new_rows_are_given(carrier, whole, both):
    model = both[True][carrier]
    (name,) = {n for d in model.dimensions if d.kind == "vocabulary" for n, _ in d.weights}
    rows = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    given = np.concatenate([array(model.state_dict()[name]), rows]) if whole else rows
    grown = meristem.grow(model, {"vocabulary": 16}, boundary="grow", given={name: given})
    assert np.array_equal(array(grown.state_dict()[name])[ROWS:], rows)
    assert carrier == 0 or whole or meristem.verify(model, grown).ok
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json()))
    assert np.array_equal(array(again.state_dict()[name])[ROWS:], rows)


def test_a_plan_with_given_rows_serves_the_other_carrier(both):
    model, file = both[True]
    rows = torch.randn(3, WIDTH)
    plan = meristem.plan(model, {"vocabulary": 16}, boundary="grow", given={"head.weight": rows})
    (name,) = {n for d in file.dimensions if d.kind == "vocabulary" for n, _ in d.weights}
    assert np.array_equal(meristem.grow(file, plan).state_dict()[name][ROWS:], rows.numpy())


def test_what_is_given_is_scaled_as_the_old_entries_are():
    model, _ = words(tied=True)
    rows = torch.randn(3, WIDTH)
    grown = meristem.grow(
        model,
        {"vocabulary": 16, "hidden": 9},
        boundary="grow",
        compensate="weights",
        given={"embed.weight": rows},
    )
    torch.testing.assert_close(grown.state_dict()["embed.weight"][ROWS:, :WIDTH], rows * 1.5**0.5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"up.bias": "median"}, MeristemError, "'median'; give \"mean\" or an array"),
        ({"embd.weight": "mean"}, SelectorError, "no weight of this model; nearest: embed.weight"),
        ({"norm.weight": "mean"}, SelectorError, "does not grow in this request"),
        ({"up.bias": [1.0, 2.0, 3.0]}, MeristemError, r"\(3,\); give \(4,\) or \(12,\)"),
        ({"up.bias": [1.0, 2.0, np.nan, 0.0]}, MeristemError, "does not hold finite numbers"),
        (
            {"down.weight": np.ones((WIDTH, 4))},
            NotPreserved,
            r"down.weight cannot .* new entries \[0:6, 8:12\] must be zero",
        ),
        ({"down.weight": "mean"}, NotPreserved, r"\[0:6, 8:12\] must be zero"),
        ({"up.bias": np.ones(12)}, MeristemError, "differs from the old entries, which stay"),
        (
            {"embed.weight": np.ones((3, WIDTH)), "head.weight": "mean"},
            SelectorError,
            "one weight twice: 'embed.weight' and 'head.weight' are tied",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_refused(given, error, message):
    model, _ = words(tied=True)
    request = {"mlp": 12} | ({"vocabulary": 16} if "embed.weight" in given else {})
    with pytest.raises(error, match=message):
        meristem.plan(model, request, boundary="grow", given=given)


def test_zeros_are_taken_where_the_proof_needs_them():
    model, tokens = words(tied=True)
    bias = torch.randn(4)
    given = {"down.weight": np.zeros((WIDTH, 4)), "up.bias": bias}
    grown = meristem.grow(model, {"mlp": 12}, given=given)
    assert torch.equal(grown.state_dict()["up.bias"][8:], bias)
    assert algebra_error(model, grown, tokens) <= LIMIT


def test_copies_take_nothing():
    model, _ = words(tied=False)
    with pytest.raises(NotPreserved, match="must be copies of old entries"):
        meristem.plan(model, {"mlp": 16}, method="copy", given={"up.bias": np.ones(8)})
    with pytest.raises(NotPreserved, match="share what the old ones hold"):
        meristem.plan(model, {"mlp": 16}, method="copy", given={"down.weight": "mean"})


@pytest.mark.parametrize(
    "name", ["llama_tied", *(pytest.param(n, marks=pytest.mark.full) for n in MODELS)]
)
def test_real_models(name, tmp_path):
    """Through torch in float64, and the grown file on new tokens in ONNX Runtime."""
    model, args, kwargs = traced(name)
    tables = {n for d in model.dimensions if d.kind == "vocabulary" for n, _ in d.weights}
    grown = meristem.grow(
        model, {"vocabulary": "%64"}, boundary="grow", given=dict.fromkeys(tables, "mean")
    )
    assert {d.size for d in grown.dimensions if d.kind == "vocabulary"} == {64}
    cropped = meristem.grow(model, {"vocabulary": "%64"}, boundary="crop")
    assert algebra_error(model, cropped, *leaves(args, kwargs)) <= LIMIT
    inputs = leaves(args, kwargs)
    with torch.no_grad():
        old, new = (leaves(m.module()(*args, **kwargs)) for m in (model, grown))
    assert relative(old, [t[..., : o.shape[-1]] for o, t in zip(old, new, strict=True)]) <= 1e-5
    runtime = session(grown.save(tmp_path / "grown.onnx"))
    feeds = {
        i.name: torch.full_like(t, 63).numpy() if t.max() > 1 and not t.is_floating_point() else t.numpy()
        for i, t in zip(runtime.get_inputs(), inputs, strict=True)
    }  # fmt: skip
    assert all(np.isfinite(y).all() for y in runtime.run(None, feeds))
