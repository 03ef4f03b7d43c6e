"""The arithmetic of benchmarks/training.py on curves that are known, and one tiny run of all of it."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.house.tree import ROOT

SCRIPT = ROOT / "benchmarks" / "training.py"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import growing.report

    return growing.report


def run(losses, growth=None, wsd=False, flops=None):
    """A stored run with a mark at every FLOP; a processor second for each of them."""
    count = len(losses) - 1
    points = [[float(i), i, loss, float(i), 2.0 * i] for i, loss in enumerate(losses)]
    grown = [] if growth is None else [{"flops": growth, "loss_before": 3.0, "loss_after": 3.5}]
    return {
        "config": {"wsd": wsd, "setting": {"marks": count, "steps": 20 * count}},
        "flops": flops or float(count), "scratch_flops": float(count),
        "processor_seconds": float(count), "wall_seconds": 2.0 * count, "growths": grown, "points": points,
    }  # fmt: skip


def test_a_run_is_no_faster_than_itself(report):
    scratch = run([5 - 0.1 * i for i in range(21)])
    own = report.outcome(scratch, scratch)
    assert own.share == pytest.approx(1.0)
    assert own.speed_up == pytest.approx(0.0)
    assert own.gap == pytest.approx(0.0)


def test_a_loss_that_is_reached_half_way_is_a_speed_up_of_100_percent(report):
    scratch = run([5 - 0.1 * i for i in range(21)])
    # The mean of marks 18 to 20 is what both are read by: 3.1.
    fast = run([4.0 - 0.1 * i for i in range(21)], growth=2.5)
    own = report.outcome(fast, scratch)
    assert own.share == pytest.approx(10 / 20)
    assert own.seconds == pytest.approx(10 / 20)
    assert own.wall == pytest.approx(10 / 20)
    assert own.speed_up == pytest.approx(1.0)
    assert own.jump == pytest.approx(0.5)


def test_losses_before_growth_do_not_count(report):
    scratch = run([5 - 0.1 * i for i in range(21)])
    late = run([1.0] * 11 + [4.0] * 10, growth=10.5)
    own = report.outcome(late, scratch)
    assert own.share is None
    assert own.speed_up is None
    assert own.gap == pytest.approx(4.0 - 3.1)


def test_under_a_decaying_rate_only_the_end_counts(report):
    scratch = run([5 - 0.1 * i for i in range(21)], wsd=True)
    cheap = run([5 - 0.1 * i for i in range(21)], growth=5.0, wsd=True, flops=10.0)
    own = report.outcome(cheap, scratch)
    assert own.spent == pytest.approx(0.5)
    assert own.speed_up == pytest.approx(1.0)
    worse = report.outcome(run([5 - 0.09 * i for i in range(21)], 5.0, True, 10.0), scratch)
    assert worse.speed_up is None
    assert worse.gap == pytest.approx(0.2)


def test_tuning_goes_on_while_the_best_is_at_an_edge(report, tmp_path, monkeypatch):
    from growing import store as module

    store = module.Store("smoke", "a text", tmp_path)
    found = {}
    monkeypatch.setattr(store, "rates", lambda: dict(sorted(found.items(), key=lambda i: i[1])))
    monkeypatch.setitem(module.SIZES, "smoke", SimpleNamespace(rates=(2e-3, 4e-3)))
    asked = []
    while rate := store.next_rate():
        asked.append(rate)
        found[rate] = (rate - 1e-3) ** 2  # best at 1e-3
    assert asked == [2e-3, 4e-3, 1e-3, 5e-4]
    assert store.rate() == 1e-3


def test_the_page_says_what_is_stored(report):
    """Its numbers come from the runs, by `--report`; none is written by hand."""
    from growing.pages import MARKED, numbers
    from growing.store import Store, texts

    results = ROOT / "benchmarks" / "results" / "training"
    store = Store("1m", texts("1m", results)[0], results)
    page = (ROOT / "docs" / "training" / "benchmark.md").read_text(encoding="utf-8")
    assert numbers(store) in MARKED.search(page)[0]


@pytest.mark.full
def test_a_tiny_benchmark_runs_is_stored_and_goes_on(tmp_path):
    def go(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", SCRIPT, "--size", "smoke", "--results", tmp_path, *arguments],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    first = go("--run", "--only", "stack-4,width-lemon,scratch-wsd", "--seeds", "0")
    stored = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")}
    again = go("--run", "--only", "stack-4,width-lemon,scratch-wsd", "--seeds", "0")
    assert "loss" in first.stderr
    assert "loss" not in again.stderr
    large = {r["parameters"] for r in stored.values()}
    assert len(large) == 1
    for name, result in stored.items():
        steps = result["config"]["setting"]["steps"]
        if "stack" in name:
            assert result["flops"] == pytest.approx(result["scratch_flops"], rel=1 / steps)
            assert result["points"][-1][1] > steps  # the small model's steps are cheaper
    width = next(r for n, r in stored.items() if "width" in n)
    assert width["growths"][0]["loss_after"] == pytest.approx(
        width["growths"][0]["loss_before"], rel=1e-5
    )
    assert "stack-4" in go("--list").stdout
