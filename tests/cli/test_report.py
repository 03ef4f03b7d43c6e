"""``--report``: a page beside the result, also where a command refuses or finds a difference."""

import html

import onnx
import pytest
from onnx import numpy_helper

from meristem.verify.report import Report, Verdict
from tests.cli.conftest import refused, run


def text(path):
    return path.read_text(encoding="utf-8")


def test_inspect(mlp, tmp_path):
    page = tmp_path / "page.html"
    done = run("inspect", mlp, "--report", page)
    assert done.code == 0
    assert done.err == f"the report is in {page}\n"
    assert "<h1>mlp.onnx</h1>" in text(page)
    assert f"meristem inspect {mlp} --report {page}" in text(page)


def test_grow_with_verification(mlp, tmp_path):
    page, big = tmp_path / "page.html", tmp_path / "big.onnx"
    done = run("grow", mlp, "-o", big, "--set", "mlp=20", "--seed", 4, "--verify", "--report", page)
    assert done.code == 0
    assert big.is_file()
    said = text(page)
    assert "<h1>mlp.onnx → big.onnx</h1>" in said
    assert "✓</span> the same function (as measured; not checked: training)" in said
    assert f"--set mlp=20 --seed 4 --verify --report {page}" in said
    assert "grown = meristem.grow(model, {&#39;mlp&#39;: 20}, seed=4)" in said


def test_a_refused_growth_writes_the_reason(mlp, tmp_path):
    page, big = tmp_path / "page.html", tmp_path / "big.onnx"
    done = run("grow", mlp, "-o", big, "--set", "width=20", "--report", page)
    assert done.code == 2
    assert not big.exists()
    assert "PinnedDimension" in done.err
    assert f"the report is in {page}" in done.err
    said = text(page)
    assert "refused: nothing was grown" in said
    assert "<strong>PinnedDimension</strong>" in said
    assert "--set width=20" in said


def test_verify_tells_a_difference(mlp, tmp_path):
    page, other = tmp_path / "page.html", tmp_path / "other.onnx"
    model = onnx.load(mlp)
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(model, other)
    done = run("verify", mlp, other, "--report", page)
    assert done.code == 1
    assert "the function differs (deployment)" in text(page)
    assert "✗ no" in text(page)


def test_verify_compares_the_files_again(mlp, tmp_path):
    page, big, plan = (tmp_path / n for n in ("page.html", "big.onnx", "plan.json"))
    run("grow", mlp, "-o", big, "--set", "mlp=20", "--save-plan", plan)
    words = ("--plan", plan, "--optimization", "all", "--size", "batch=3", "--seed", 2)
    assert run("verify", mlp, big, *words, "--report", page).code == 0
    again = (
        html.unescape(text(page)).partition('aria-labelledby="python">')[2].partition("</code>")[0]
    )
    assert f"grown = meristem.load({str(big)!r})" in again
    assert f"Path({str(plan)!r}).read_text()" in again
    for said in ("optimizations=['all']", "sizes={'batch': 3}", "seed=2"):
        assert said in again
    assert "meristem.grow(" not in again


def test_from_a_pipe_no_path_is_told_that_will_not_be_there(mlp, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    monkeypatch.setattr(
        "meristem.cli.received", lambda path, scope: mlp if str(path) == "-" else path
    )
    done = run("grow", "-", "-o", tmp_path / "big.onnx", "--set", "mlp=20", "--report", page)
    assert done.code == 0
    said = html.unescape(text(page))
    assert "<h1>standard input → big.onnx</h1>" in said
    assert "meristem.load('model.onnx')" in said
    assert "what came through the pipe, as the file model.onnx" in said
    assert str(mlp) not in said


def test_a_package_has_the_page_of_the_model_beside_it(mlp, tmp_path, monkeypatch):
    """The page of what was compared, on whichever side the package stands."""
    package, page = tmp_path / "pkg.pt2", tmp_path / "page.html"
    monkeypatch.setattr("meristem.verification_package.packaged", lambda *paths: package in paths)
    verdict = Report({"deployment": Verdict("noise-floor")})
    monkeypatch.setattr("meristem.api.verify", lambda a, b, **options: verdict)
    for pair in ((package, mlp), (mlp, package)):
        assert run("verify", *pair, "--report", page).code == 0
        assert f"{str(package)!r}  # a compiled package" in html.unescape(text(page))
        page.unlink()
    said = refused("verify", mlp, package, "--plan", tmp_path / "p.json", error="CarrierError")
    assert "leave --plan out" in said
    monkeypatch.setattr("meristem.sides.OnnxSide.name", "torch")
    said = refused("verify", mlp, package, "--runtime", "onnxruntime", error="CarrierError")
    assert "a program runs in torch; leave --runtime out" in said


@pytest.mark.parametrize(
    "words", [("inspect",), ("grow", "-o", "big.onnx", "--set", "mlp=20"), ("verify", "second")]
)
def test_where_no_page_can_be_written_nothing_is_done(words, mlp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = (mlp if w == "second" else w for w in words)
    said = refused(command, mlp, *rest, "--report", "page.txt", error="OutputError")
    assert "ends in .html" in said
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.onnx"]


def test_what_cannot_be_read_leaves_no_page(tmp_path):
    page = tmp_path / "page.html"
    refused("inspect", tmp_path / "none.onnx", "--report", page, error="CarrierError")
    assert not page.exists()


def test_json_stays_json(mlp, tmp_path):
    page = tmp_path / "page.html"
    done = run("inspect", mlp, "--json", "--report", page)
    assert done.data["dimensions"]
    assert page.is_file()
