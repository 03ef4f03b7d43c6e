"""The arithmetic of benchmarks/runtime.py, the page beside what is stored, and one run of all of it."""

import json
import os
import re
import statistics
import subprocess
import sys

import pytest

from tests.house.tree import ROOT

SCRIPT = ROOT / "benchmarks" / "runtime.py"


@pytest.fixture
def room(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import deploying.graphs
    import deploying.pages
    import deploying.timing

    return deploying


class Clock:
    """A clock that programs move."""

    now = 0.0

    def __call__(self):
        return self.now

    def program(self, *seconds):
        """Takes these seconds in turn."""
        turns = iter(seconds * 1000)

        def run():
            self.now += next(turns)

        return run


def test_a_program_that_takes_twice_as_long_has_the_ratio_two(room):
    clock = Clock()
    found = room.timing.paired(clock.program(0.2), clock.program(0.1), 10, clock)
    assert found.median == pytest.approx(2.0)
    assert found.seconds == pytest.approx((0.2, 0.1))


def test_neither_is_always_first(room):
    """A clock that slows down from measurement to measurement favours nobody."""
    clock = Clock()
    order = []

    def program(name):
        def run():
            order.append(name)
            clock.now += 1.0

        return run

    room.timing.paired(program("a"), program("b"), 4, clock)
    assert "".join(order[4:]) == "b" + "abbaabba"  # the warm ups, one to find the calls


@pytest.mark.parametrize("n", [6, 20, 101])
def test_the_interval_holds_the_median_and_what_a_sign_test_leaves(room, n):
    low, high = room.timing._interval([float(i) for i in range(n)])
    assert low <= statistics.median(range(n)) <= high
    from math import comb

    outside = 2 * sum(comb(n, k) for k in range(int(low) + 1)) / 2**n
    assert outside <= 0.05 + 1e-12


def test_only_what_is_fused_counts_as_fused(room):
    counts = {"MatMul": 3, "com.microsoft.SkipLayerNormalization": 2, "com.microsoft.nchwc.Conv": 4}
    assert room.pages.fused(counts) == {"SkipLayerNormalization": 2, "Conv": 4}


def test_operators_that_differ_are_not_the_same(room):
    assert room.pages.same([{"Add": 2}, {"Add": 2}]) == "the same 2"
    assert room.pages.same([{"Add": 2}, {"Mul": 2}]) == "2 instead of 2: Add 2 more; Mul 2 less"
    grown = {"aten.reshape.default": 3, "aten.mean.dim": 1}
    native = {"aten.view.default": 2, "aten._unsafe_view.default": 1}
    assert room.pages.same([grown, native]) == "4 instead of 3: mean 1 more"
    assert room.pages.same([native, {"aten.reshape.default": 3}]) == "the same 3"


def test_a_ratio_above_the_limit_is_said(room):
    r = {"pays": False}
    assert room.pages.verdict(r, 1.03) == "1.030"
    assert room.pages.verdict(r, 1.031) == "1.031 (MISSED)"
    assert room.pages.verdict({"pays": True}, 1.2) == "1.200 (pays)"


def test_the_page_holds_what_is_stored(room):
    stored = [
        json.loads(p.read_text()) for p in sorted((SCRIPT.parent / "results/runtime").glob("*"))
    ]
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert stored
    for r in stored:
        for way in r["ways"]:
            assert room.pages.row(r, way) in page


def test_files_have_the_operators_of_native_ones(room):
    """What is stored shows it for every family, whatever the times were."""
    stored = [json.loads(p.read_text()) for p in (SCRIPT.parent / "results/runtime").glob("*")]
    judged = [r for r in stored if not r["pays"]]
    assert judged
    for r in judged:
        for way in [w for name, w in r["ways"].items() if name != "module"]:
            grown, native = way["written"]
            assert grown == native, r["family"]
            assert len(set(map(json.dumps, way.get("optimised", [0])))) == 1


@pytest.mark.full
def test_a_run_from_beginning_to_end(tmp_path):
    words = ["--run", "--only", "convolution net", "--pairs", "6", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *words],
        capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| convolution net \| `preserve` \| torch module \| \d\.\d{3}", done.stdout)
