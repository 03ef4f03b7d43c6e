"""Reports: what counts as passed, and how it reads."""

import json

import meristem
from meristem.verify.report import Measure, Report, Verdict, judge, not_checked


def test_the_report_is_public():
    assert meristem.Report is Report


def test_ok_needs_a_level_that_was_checked():
    assert not Report({"algebra": not_checked("no plan")}).ok
    assert Report({"algebra": not_checked("no plan"), "deployment": Verdict("bit-exact")}).ok
    assert not Report({"algebra": Verdict("bit-exact"), "deployment": Verdict("differs")}).ok


def test_a_measure_that_is_not_a_number_fails():
    assert not Measure("y", float("nan"), 1.0).ok
    assert judge([Measure("y", float("nan"), 1.0)], exact=False).word == "differs"


def test_judging():
    fine = Measure("y", 1e-12, 1e-10)
    assert judge([fine], exact=False).word == "noise-floor"
    assert judge([fine], exact=True).word == "bit-exact"
    wrong = judge([fine, Measure("z", 1.0, 1e-10)], exact=False)
    assert wrong.word == "differs"
    assert str(wrong).startswith("differs: z: error 1.00e+00")
    assert judge([fine], exact=True, failures=["shape"]).word == "differs"


def test_text_and_json():
    verdict = judge([Measure("y", float("inf"), 1e-10)], exact=False, inputs=["random at 2x3"])
    report = Report({"algebra": verdict, "training": not_checked("no plan")})
    text = str(report)
    assert text.splitlines()[0] == "the function differs (algebra)"
    assert "not checked: no plan" in text
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert data["levels"]["algebra"]["measures"][0]["error"] == "inf"
    assert data["levels"]["algebra"]["inputs"] == ["random at 2x3"]
