"""examples/self_improve.py in small: train, saturate, grow, train on more text."""

import importlib.util
import json
import sys

import pytest

from tests.house.tree import ROOT


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location(
        "self_improve", ROOT / "examples" / "self_improve.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["self_improve"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["self_improve"]


def test_it_trains_saturates_grows_and_goes_on(example, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["self_improve.py", "--smoke", "--out", str(tmp_path)])
    example.main()
    kept = json.loads((tmp_path / "self_improve.json").read_text())
    events = kept["events"]
    kinds = [e["event"] for e in events if e["event"] != "loss"]
    assert kinds == ["slice", "saturated", "growth", "slice", "saturated", "end"]
    (growth,) = (e for e in events if e["event"] == "growth")
    assert growth["after"] == pytest.approx(growth["before"], rel=1e-5)
    first, second = (e for e in events if e["event"] == "slice")
    assert second["parameters"] == growth["parameters"] > first["parameters"]
    assert second["kilobytes"] > first["kilobytes"]
    at_growth = next(e for e in events if e["event"] == "loss" and e["step"] > growth["step"])
    assert at_growth["loss"] < growth["before"]
    lines = [entry["kind"] for entry in kept["ledger"]["entries"]]
    assert lines == ["stage", "growth", "stage"]
    assert kept["ledger"]["totals"]["flops"] == events[-1]["flops"] > 0
    assert (tmp_path / "self_improve.png").stat().st_size > 0
