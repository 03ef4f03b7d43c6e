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


def test_the_first_line_names_levels_that_were_not_checked():
    fine, left = Verdict("noise-floor"), not_checked("no plan")
    report = Report({"algebra": left, "deployment": fine, "training": left})
    said = "the same function (as measured; not checked: algebra, training)"
    assert report.ok
    assert report.headline == str(report).splitlines()[0] == report.to_data()["headline"] == said
    assert Report({"algebra": fine, "training": fine}).headline == "the same function"
    planned = Report({"algebra": Verdict("approximate"), "training": left})
    said = "another function, as the plan says (as measured; not checked: training)"
    assert planned.headline == said
    alone = Report({"deployment": left, "training": fine})
    assert (alone.ok, alone.headline) == (False, "the function could not be compared")


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
