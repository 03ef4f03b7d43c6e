"""``meristem search``: a table, a JSON file and a picture; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run
from tests.house.tree import ROOT

RUN = f"{ROOT / 'tests' / 'training' / 'cheap_run.py'}:run"
WORDS = ("--target", "layers=8", "--target", "hidden=16", "--budget", "1e10", "--trials", "5")


def test_a_search_and_its_files(tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = run("search", RUN, *WORDS, "--out", out, "--start", "layers=2,4", "--method", "stack")
    assert done.code == 0
    assert "The front of loss against compute" in done.out
    assert "5 complete" in done.out
    assert max(map(len, done.out.splitlines())) <= max(80, len(str(out)) + 30)
    assert {p.name for p in out.iterdir()} == {"search.json", "front.png", "trials.journal"}
    data = json.loads((out / "search.json").read_text())
    assert data["settings"]["start"] == {"layers": [2, 4, 8], "hidden": [4, 8, 16]}
    again = run("search", RUN, *WORDS[:-1], "6", "--out", out, "--start", "layers=2,4",
                "--method", "stack", "--json")  # fmt: skip
    assert again.code == 0
    known = [t for t in again.data["trials"] if t["number"] < len(data["trials"])]
    assert known == data["trials"]
    assert sum(t["state"] == "complete" for t in again.data["trials"]) == 6
    assert "other settings" in refused("search", RUN, *WORDS, "--out", out, error="MeristemError")


def test_a_function_of_a_module_and_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ("--target", "layers=4", "--budget", "1e9", "--trials", "2", "--out", tmp_path / "a")
    assert run("search", "tests.training.cheap_run:last", *words).code == 0
    check = ("--check", "tests.training.cheap_run:even")
    words = (*words[:-1], tmp_path / "b")
    message = refused(
        "search", "tests.training.cheap_run:last", *words, *check, error="MeristemError"
    )
    assert "all were infeasible" in message


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("run.py", *WORDS), "MeristemError", "give path.py:function or module:function"),
        (("nowhere.py:run", *WORDS), "MeristemError", "FileNotFoundError"),
        (("no.such.module:run", *WORDS), "MeristemError", "ModuleNotFoundError"),
        ((f"{RUN}s", *WORDS), "MeristemError", "there is no function runs"),
        ((RUN, "--budget", "1e9"), "SizeError", "needs a target"),
        ((RUN, *WORDS[:4]), "MeristemError", "the budget is 0"),
        ((RUN, *WORDS, "--target", "mlp=x2"), "SizeError", "is a number"),
        ((RUN, *WORDS, "--start", "layers=few"), "SizeError", "SELECTOR=SIZE,SIZE"),
        ((RUN, *WORDS, "--start", "layers=16"), "SizeError", "above its target of 8"),
        ((RUN, *WORDS, "--method", "stak"), "MeristemError", "is not known"),
        ((RUN.replace(":run", ":broken"), *WORDS), "MeristemError", "ZeroDivisionError: no data"),
    ],
)
def test_what_it_refuses(words: tuple[str, ...], error: str, said: str, tmp_path: Path) -> None:
    assert said in refused("search", *words, "--out", tmp_path / "out", error=error)
    assert not (tmp_path / "out" / "search.json").exists()
