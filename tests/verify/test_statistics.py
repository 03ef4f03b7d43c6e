"""Error statistics: gathered sample by sample, they are those of all errors together."""

import json
from math import inf, log10

import numpy as np
import pytest

import meristem
from meristem.verify.signature import class_outputs
from meristem.verify.statistics import Gathered, table
from tests.verify.models import onnx_file, traced

RNG = np.random.default_rng(0)


def gathered(samples, *, classes=False):
    out = Gathered(classes)
    for e, o, g in samples:
        out.add(e, o, e, g, float(np.abs(e).max()))
    return out.finish("y", "here", 1e-9)


def test_they_are_those_of_all_errors():
    y = RNG.standard_normal((3, 40, 70))
    own = y + 1e-7 * RNG.standard_normal(y.shape)
    got = y + 1e-6 * RNG.standard_normal(y.shape) * (RNG.random(y.shape) < 0.9)
    found = gathered(list(zip(y, own, got, strict=True)))
    error = np.abs(got - y)
    assert found.count == error.size
    assert found.max == error.max()
    assert found.mean == pytest.approx(error.mean())
    for q, value in found.quantiles.items():
        exact = np.quantile(error, float(q), method="inverted_cdf")
        assert exact <= value <= exact * (1 + 1 / 64)
    assert found.own == np.abs(own - y).max()
    assert found.relative == found.max / found.own
    assert found.sqnr == pytest.approx(20 * log10(np.linalg.norm(y) / np.linalg.norm(error)))
    counts = dict(found.histogram)
    assert counts[None] == int((error == 0).sum())
    assert sum(counts.values()) == error.size
    assert counts[-7] == pytest.approx(((error >= 1e-7) & (error < 1e-6)).sum(), rel=0.02)


def test_equal_outputs():
    y = RNG.standard_normal((2, 5))
    found = gathered([(y, y, y)], classes=True)
    assert (found.max, found.relative, found.sqnr, found.own_sqnr) == (0.0, 0.0, inf, inf)
    assert found.agreement == 1.0
    assert found.histogram == [(None, 10)]
    assert found.quantiles["0.999"] == 0.0


def test_what_is_no_number_and_what_overflows_a_square():
    y = np.array([1e300, 2.0, -inf])
    found = gathered([(y, y, np.array([1e300, np.nan, -inf]))])
    assert (found.max, found.sqnr) == (inf, -inf)
    small = gathered([(y, y, y + np.array([1e290, 0.0, 0.0]))])
    assert small.sqnr == pytest.approx(200.0, abs=0.1)


def test_agreement_counts_places():
    y = np.array([[[1.0, 2.0], [4.0, 3.0]]])
    assert gathered([(y, y, y[..., ::-1])], classes=True).agreement == 0.0
    assert gathered([(y, y, y + np.array([0.0, 1.5]))], classes=True).agreement == 0.5


def test_which_outputs_count_classes():
    for name in ("gpt2", "vit"):
        model = traced(name)
        assert class_outputs(model.graph, model.equations) == {model.graph.outputs[0][0]}
    model = traced("whisper")  # its second output is a stream
    assert class_outputs(model.graph, model.equations) == {model.graph.outputs[0][0]}


def test_a_report_shows_them(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    model = meristem.load(path)
    report = meristem.verify(model, meristem.grow(model, {"mlp": "x2"}))
    rows = report.levels["deployment"].statistics
    assert [r.output for r in rows] == ["y", "y"]
    assert all(r.relative <= 4 for r in rows)
    assert table(rows)[0] in str(report).replace(" " * 14, "", 1)
    data = json.loads(report.to_json())["levels"]["deployment"]["statistics"]
    assert data[0]["quantiles"].keys() == rows[0].quantiles.keys()
    assert sum(n for _, n in data[0]["histogram"]) == rows[0].count


def test_rows_beyond_the_first_are_counted():
    y = RNG.standard_normal((2, 5))
    rows = [gathered([(y, y, y + k * 1e-8)]) for k in range(9)]
    assert table(rows)[-1] == "and 3 more"
    assert len(table(rows)) == 8
