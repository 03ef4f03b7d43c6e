"""Positions: old lengths keep their outputs, longer inputs run, masks and ids go on by their own rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.continuation import continued, rule_of
from meristem.rewrite.errors import MeristemError, NotPreserved, SelectorError
from tests.e2e.measure import algebra_error, leaves, session
from tests.e2e.test_torch_zoo import traced
from tests.passes.cases import LIMIT, dimension, solve, wish
from tests.zoo import inputs

TOKENS, ROWS, WIDTH = 13, 16, 6
LONGER = 24


class Reader(nn.Module):
    """One attention over tokens with positions in one of the usual spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.embed = nn.Embedding(TOKENS, WIDTH)
        if spelling == "sines":
            angle = torch.arange(ROWS)[:, None] / 100 ** (torch.arange(0, WIDTH, 2) / WIDTH)
            table = torch.stack([angle.sin(), angle.cos()], -1).reshape(ROWS, WIDTH)
            self.register_buffer("table", table)
        elif spelling == "noise":
            self.register_buffer("table", torch.randn(ROWS, WIDTH))
        elif spelling == "sliced":
            self.table = nn.Parameter(torch.randn(1, ROWS, WIDTH))
        else:
            self.table = nn.Embedding(ROWS, WIDTH)
        if spelling == "ids":
            self.register_buffer("ids", torch.arange(ROWS).expand(1, -1))
            self.register_buffer("types", torch.zeros(1, ROWS, dtype=torch.long))
            self.kinds = nn.Embedding(2, WIDTH)
        if spelling == "masked":
            self.register_buffer("mask", torch.tril(torch.ones(1, ROWS, ROWS)))
        if spelling == "bool mask":
            self.register_buffer("mask", torch.ones(1, ROWS, ROWS).tril().bool())
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n = tokens.shape[1]
        x = self.embed(tokens)
        if self.spelling in ("sines", "noise"):
            x = x + self.table[:n]
        elif self.spelling == "sliced":
            x = x + self.table[:, :n]
        elif self.spelling == "ids":
            x = x + self.table(self.ids[:, :n]) + self.kinds(self.types[:, :n])
        else:
            x = x + self.table(torch.arange(n))
        scores = self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(WIDTH)
        if "mask" in self.spelling:
            seen = self.mask[:, :n, :n]
            hidden = seen.logical_not() if seen.dtype == torch.bool else seen == 0
            scores = scores.masked_fill(hidden, -1e9)
        return self.out(torch.softmax(scores, -1) @ self.v(x))


SPELLINGS = ("counted", "sliced", "ids", "masked", "bool mask", "sines")


def reader(spelling: str, *, dynamic: bool = True) -> tuple[Any, nn.Module, torch.Tensor]:
    torch.manual_seed(2)
    module = Reader(spelling).eval()
    tokens = torch.randint(0, TOKENS, (2, 7))
    model = meristem.trace(module, (tokens,), dynamic_shapes="auto" if dynamic else None)
    return model, module, tokens


def run(path: Path, tokens: torch.Tensor) -> np.ndarray:
    runtime = session(path)
    return runtime.run(None, {runtime.get_inputs()[0].name: tokens.numpy()})[0]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_old_lengths_are_exact_and_longer_inputs_run(spelling):
    model, _, _ = reader(spelling)
    grown = meristem.grow(model, {"positions": LONGER})
    for length in (7, ROWS - 1):
        assert algebra_error(model, grown, torch.randint(0, TOKENS, (3, length))) == 0
    long = torch.randint(0, TOKENS, (2, LONGER))
    with torch.no_grad():
        said = grown.module()(long)
        torch.testing.assert_close(grown.exported_program.module()(long), said)
        if "mask" in spelling:  # what comes later changes nothing
            torch.testing.assert_close(grown.module()(long[:, :10]), said[:, :10])


@pytest.mark.parametrize(
    "spelling",
    [s if s == "bool mask" else pytest.param(s, marks=pytest.mark.full) for s in SPELLINGS],
)
def test_files_of_grown_models_and_grown_files(spelling, tmp_path):
    model, _, tokens = reader(spelling)
    grown = meristem.grow(model, {"positions": LONGER})
    long = torch.randint(0, TOKENS, (2, LONGER))
    with torch.no_grad():
        said = grown.module()(long)
    np.testing.assert_allclose(
        run(grown.save(tmp_path / "grown.onnx"), long), said, rtol=1e-4, atol=1e-5
    )
    # The file grown instead: the same at old lengths, and longer ones run.
    path = model.save(tmp_path / "old.onnx")
    file = meristem.grow(meristem.load(path), {"positions": LONGER}).save(tmp_path / "file.onnx")
    assert np.array_equal(run(path, tokens), run(file, tokens))
    assert np.isfinite(run(file, long)).all()
    if "mask" in spelling:
        np.testing.assert_allclose(
            run(file, long)[:, :10], run(file, long[:, :10]), rtol=1e-4, atol=1e-5
        )


def test_bounds_of_the_program_follow_the_tables():
    model, _, _ = reader("sliced")
    grown = meristem.grow(model, {"positions": LONGER})

    def longest(m: Any) -> set[int]:
        ranges = m.exported_program.range_constraints.values()
        return {int(r.upper) for r in ranges if r.upper < 1 << 20}

    assert longest(model) == {ROWS}
    assert longest(grown) == {LONGER}
    with pytest.raises(AssertionError, match="Guard failed"):
        grown.exported_program.module()(torch.zeros(2, LONGER + 1, dtype=torch.long))
    assert longest(meristem.grow(grown, {"positions": 30})) == {30}


@pytest.mark.parametrize("spelling", ["masked", "sines"])
def test_what_is_stored_is_what_the_larger_class_stores(spelling):
    model, _, _ = reader(spelling)
    grown = meristem.grow(model, {"positions": LONGER}).state_dict()
    name = "mask" if spelling == "masked" else "table"
    if spelling == "masked":
        wanted = torch.tril(torch.ones(1, LONGER, LONGER))
    else:
        angle = torch.arange(LONGER)[:, None] / 100 ** (torch.arange(0, WIDTH, 2) / WIDTH)
        wanted = torch.stack([angle.sin(), angle.cos()], -1).reshape(LONGER, WIDTH)
    torch.testing.assert_close(grown[name], wanted)


def test_what_follows_no_rule_is_refused_or_given():
    model, _, tokens = reader("noise")
    with pytest.raises(
        NotPreserved, match=r"table is stored, not trained, .* no rule .* give them"
    ):
        meristem.grow(model, {"positions": LONGER})
    rows = torch.randn(LONGER - ROWS, WIDTH)
    grown = meristem.grow(model, {"positions": LONGER}, given={"table": rows})
    assert torch.equal(grown.state_dict()["table"][ROWS:], rows)
    assert algebra_error(model, grown, tokens) == 0


def test_a_mask_that_is_long_enough_stays():
    a, b = dimension("positions", meristem.rewrite.axes.Term(16)), dimension(
        "positions", meristem.rewrite.axes.Term(64)
    )  # fmt: skip
    b.name = "positions@mask"
    from meristem.rewrite.request import Wish

    _, reached = solve(Wish(a, 24, "positions"), Wish(b, 24, "positions"))
    assert reached == {a.name: 24, b.name: 64}
    with pytest.raises(meristem.SizeError, match="is 64 today and cannot become 24"):
        solve(wish(b, 24))


def test_new_rows_are_given_or_the_mean():
    model, _, _ = reader("counted")
    rows = torch.randn(LONGER - ROWS, WIDTH)
    for given in (rows, "mean"):
        grown = meristem.grow(model, {"positions": LONGER}, given={"table.weight": given})
        table = grown.state_dict()["table.weight"]
        wanted = rows if given is rows else table[:ROWS].mean(0).expand(len(rows), -1)
        torch.testing.assert_close(table[ROWS:], wanted)


def test_interpolation_is_torchs_and_says_that_it_is_not_exact():
    model, _, tokens = reader("sliced")
    grown = meristem.grow(model, {"positions": LONGER, "vocabulary": 15}, method="interpolate")
    old, new = (m.state_dict()["table"] for m in (model, grown))
    wanted = nn.functional.interpolate(
        old.transpose(1, 2), size=LONGER, mode="linear", align_corners=True
    )
    torch.testing.assert_close(new, wanted.transpose(1, 2))
    assert grown.plan.approximate == ["table is interpolated from 16 to 24 positions"]
    assert algebra_error(model, grown, tokens) > 1e-3
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word == "approximate"
    again = meristem.grow(model, meristem.Plan.from_json(grown.plan.to_json()))
    assert torch.equal(again.state_dict()["table"], new)
    with pytest.raises(MeristemError, match="none grows in this request"):
        meristem.grow(model, {"vocabulary": 15}, method="interpolate")


def test_other_growth_goes_along():
    """A wider table that goes on by its rule: the rule first, then the width."""
    for spelling in ("sliced", "sines"):
        model, _, tokens = reader(spelling)
        axis = 2 if spelling == "sliced" else 1
        (width,) = {d.name for d in model.dimensions if ("table", axis) in d.weights}
        grown = meristem.grow(model, {"positions": LONGER, f"{width}@": 9})
        assert algebra_error(model, grown, tokens) <= LIMIT
        assert grown.state_dict()["table"].shape[-2:] == (LONGER, 9)


def test_a_model_without_a_table_has_nothing_to_grow():
    module = nn.Sequential(nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, 3)).eval()
    model = meristem.trace(module, (torch.randint(0, TOKENS, (2, 7)),))
    with pytest.raises(SelectorError, match=r"stores no table of positions, .* any length works"):
        meristem.grow(model, {"positions": 64})


def test_grids_of_image_patches_are_refused():
    model, _, _ = traced("vit")
    with pytest.raises(meristem.PinnedDimension, match='ask for "image" with method="interpolate"'):
        meristem.grow(model, {"positions": 6})


# -- rules -----------------------------------------------------------------------------------------


TABLES = {
    "count": (np.arange, (0,)),
    "same": (lambda n: np.zeros((1, n), np.int64), (1,)),
    "mask": (lambda n: np.tril(np.ones((1, n, n), bool)), (1, 2)),
    "window": (lambda n: np.tril(np.ones((n, n))) - np.tril(np.ones((n, n)), -4), (0, 1)),
    "infinite": (lambda n: np.triu(np.full((n, n), -1e9), 1), (0, 1)),
    "waves": (
        lambda n: np.concatenate(
            [f(np.arange(n)[:, None] * np.float64(10) ** -np.arange(4)) for f in (np.sin, np.cos)],
            1,
        ).astype(np.float32),
        (0,),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_rule_makes_what_the_longer_table_is(name):
    make, axes = TABLES[name]
    rule = rule_of(make(12), axes)
    assert rule == {"window": "mask", "infinite": "mask"}.get(name, name)
    np.testing.assert_allclose(
        continued(make(12), dict.fromkeys(axes, 20), rule), make(20), atol=1e-6
    )


@pytest.mark.parametrize(
    ("table", "axes"),
    [
        (np.arange(12) ** 2, (0,)),
        (np.arange(3), (0,)),
        (np.abs(np.arange(12)[:, None] - np.arange(12)), (0, 1)),  # distances go on, but how?
        (np.tril(np.ones((12, 12)), -11), (0, 1)),  # the last distance alone: seen once
        (np.tril(np.ones((12, 12))) - np.eye(12)[:, ::-1], (0, 1)),
        (np.random.default_rng(0).standard_normal((12, 4)), (0,)),
        (np.sin(np.arange(12)[:, None] ** 2 * [1.0, 0.1]), (0,)),
    ],
)
def test_what_is_no_rule(table, axes):
    assert rule_of(table, axes) == ""


# -- real models -----------------------------------------------------------------------------------


REAL = ("bert", "gpt2", "opt", "roberta", "bart", "nanogpt", "torch_encoder_prenorm")


@pytest.mark.parametrize(
    "name", ["nanogpt_manual", *(pytest.param(n, marks=pytest.mark.full) for n in REAL)]
)
def test_real_models(name):
    model, args, kwargs = traced(name, dynamic=True)
    grown = meristem.grow(model, {"positions": 48})
    assert algebra_error(model, grown, *leaves(args, kwargs)) == 0
    long = inputs(name, 2, 40)
    with torch.no_grad():
        said = leaves(grown.module()(*long[0], **long[1]))
    assert all(torch.isfinite(y).all() for y in said)


@pytest.mark.full
@pytest.mark.parametrize("name", REAL)
def test_real_models_in_files(name, tmp_path):
    model, _, _ = traced(name, dynamic=True)
    grown = meristem.grow(model, {"positions": 48})
    long = inputs(name, 2, 40)
    with torch.no_grad():
        said = leaves(grown.module()(*long[0], **long[1]))
    old = model.save(tmp_path / "old.onnx")
    file = meristem.grow(meristem.load(old), {"positions": 48})
    for path in (grown.save(tmp_path / "grown.onnx"), file.save(tmp_path / "file.onnx")):
        runtime = session(path)
        names = [i.name for i in runtime.get_inputs()]
        got = runtime.run(None, {n: t.numpy() for n, t in zip(names, leaves(*long), strict=True)})
        if "grown" in path.name:
            for a, b in zip(got, said, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        assert all(np.isfinite(a).all() for a in got)
