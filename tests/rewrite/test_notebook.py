"""What notebooks show of models, plans and reports."""

from html.parser import HTMLParser

import pytest
import torch

import meristem
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.notebook import MOST, box, line, table
from meristem.rewrite.plan import Change, Plan
from meristem.verify.report import Measure, Report, Verdict, not_checked

NASTY = "<img src=x onerror=alert(1)>\"'&"


class _Reader(HTMLParser):
    """Collects the text, and refuses what is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def model():
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    return meristem.trace(net, (torch.randn(2, 4),), None, None)


def test_a_model(model):
    said = read(model._repr_html_())
    assert f"{model.parameters:,} parameters, from torch" in said.text
    assert "mlp" in said.text
    assert any("it is an axis of the input" in t for t in said.text)


def test_a_plan(model):
    plan = meristem.plan(model, {"mlp": 9})
    said = read(plan._repr_html_())
    for word in ("mlp", "6", "9", "zero"):
        assert word in said.text


def test_a_report():
    near = Verdict("noise-floor", "fine", [Measure("y", 1e-12, 1e-10)])
    said = read(Report({"algebra": near, "training": not_checked("no plan")})._repr_html_())
    assert "✓ the same function (as measured; not checked: training)" in said.text
    assert {"1.0e-12", "1.0e-10", "y", "not checked", "training: no plan"} <= set(said.text)
    bad = read(Report({"algebra": Verdict("differs", "it does")})._repr_html_())
    assert "✗ the function differs (algebra)" in bad.text


def test_everything_is_escaped(model, monkeypatch):
    plan = Plan(
        {}, method=NASTY, changes=[Change(NASTY, "mlp", NASTY, 1, 2, (NASTY,))], approximate=[NASTY]
    )
    report = Report({NASTY: Verdict("differs", NASTY, [Measure(NASTY, 2.0, 1.0)])})
    odd = Dimension(NASTY, "mlp", 4, NASTY, (), NASTY)
    monkeypatch.setitem(vars(model), "dimensions", [odd, Dimension(NASTY, "mlp", 5, NASTY, ())])
    for thing in (plan, report, model):
        said = read(thing._repr_html_())
        assert "img" not in said.seen
        assert NASTY in "".join(said.text)


def test_colours_are_the_notebook_s():
    html = box("t", line("x", muted=True), table("c", ("a", ">b"), [(1, 2)]))
    assert "currentColor" in html
    assert "color:" not in html.replace("color-mix", "")
    assert "#" not in html


def test_long_tables_are_counted():
    said = read(table("c", ("a",), [(i,) for i in range(MOST + 3)]))
    assert "and 3 rows more" in said.text
    assert str(MOST) not in said.text
