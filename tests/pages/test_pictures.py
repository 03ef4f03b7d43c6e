"""Pictures with matplotlib show what was found."""

from dataclasses import replace

import pytest

import meristem
from meristem import pictures
from meristem.rewrite.errors import MeristemError, RuntimeUnavailable
from meristem.verify.report import Report, Verdict, not_checked
from tests.pages.test_page import STATISTICS


def lengths(figure):
    """Of every bar, by its row: the lengths of its parts."""
    out = {}
    for bar in figure.axes[0].patches:
        out.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append(bar.get_width())
    return out


def test_blocks_before_and_after(model, grown, tmp_path):
    figure = pictures.blocks(grown, before=model)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    at = next(i for i, n in enumerate(names) if n.startswith("MLP (blocks.*.mlp)"))
    assert names[at].endswith("mlp 40 ×4")
    old, new = lengths(figure)[at]
    assert old == 2 * (3 * 16 * 20 + 16)
    assert old + new == 4 * (3 * 16 * 40 + 16)
    figure.savefig(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").stat().st_size > 5000


def test_blocks_of_a_model_alone(model):
    figure = pictures.blocks(model)
    assert all(len(parts) == 1 for parts in lengths(figure).values())
    assert figure.axes[0].get_xlabel() == "parameters"


def test_errors(tmp_path):
    both = Verdict("noise-floor", statistics=[STATISTICS, STATISTICS])
    figure = pictures.errors(Report({"deployment": both}))
    assert len(figure.axes) == 2
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1e-5", "1e-3"]
    assert [bar.get_height() for bar in axes.patches] == [90, 10, 900]
    assert axes.get_yscale() == "log"
    figure.savefig(tmp_path / "errors.png")
    assert (tmp_path / "errors.png").stat().st_size > 5000


def test_infinite_errors_have_a_bar_of_their_own():
    wild = replace(STATISTICS, histogram=[(309, 7), (None, 90)])
    (axes,) = pictures.errors(Report({"deployment": Verdict("differs", statistics=[wild])})).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "inf"]


def test_errors_of_nothing_are_refused():
    with pytest.raises(MeristemError, match="no statistics"):
        pictures.errors(Report({"deployment": not_checked("no runtime")}))


def test_without_matplotlib(model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeUnavailable, match=r"meristem\[pictures\]"):
        pictures.blocks(model)


def test_pictures_are_imported_on_demand():
    assert "pictures" not in meristem.__all__
