"""The code of the pages runs, and prints what the pages say."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.house.tree import ROOT

BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
PAGES = ("docs/how-it-works.md", "docs/add-an-operator.md")
PASSES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs/passes").glob("*.md"))

# Starting a process costs more than most pages, so those that change nothing share one.
TOGETHER = """
import contextlib, io, json
said = {}
for page, code in json.load(open("pages.json", encoding="utf-8")).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
    said[page] = out.getvalue()
print(json.dumps(said))
"""


def blocks(page):
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    code = "\n".join(body for kind, body in found if kind == "python")
    said = "".join(body for kind, body in found if kind == "text")
    return code, said


def run(code, folder):
    script = folder / "page.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(text):
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    "page", [PAGES[0], *(pytest.param(p, marks=pytest.mark.full) for p in PAGES[1:])]
)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path):
    """In a process of its own: pages register operators."""
    code, said = blocks(page)
    assert code
    assert said
    assert words(run(code, tmp_path)) == words(said)


def test_the_pages_of_the_passes_run_and_print_what_they_say(tmp_path):
    found = {page: blocks(page) for page in PASSES}
    assert all(code and said for code, said in found.values())
    codes = {page: code for page, (code, _) in found.items()}
    (tmp_path / "pages.json").write_text(json.dumps(codes), encoding="utf-8")
    printed = json.loads(run(TOGETHER, tmp_path))
    assert {p: words(t) for p, t in printed.items()} == {p: words(t) for p, (_, t) in found.items()}


@pytest.mark.full
def test_the_ten_lines_of_the_readme(tmp_path):
    code, _ = blocks("README.md")
    before = """
import torch
from meristem.demo_model import Decoder, Sizes
torch.manual_seed(0)
module = Decoder(Sizes(hidden=16, qk_dim=6, value_dim=6, mlp=20)).eval()
tokens = torch.randint(0, 256, (2, 7))
"""
    said = run(before + code, tmp_path)
    assert "layers@blocks: 2 -> 4" in said
    assert (tmp_path / "grown.onnx").is_file()


@pytest.mark.full
@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example(example, tmp_path):
    assert run((ROOT / "examples" / example).read_text(encoding="utf-8"), tmp_path)


def test_every_page_is_linked():
    """From the README, or from a page that the README links."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))
    assert not [page for page in pages if f"({page})" not in text]


def test_every_link_leads_somewhere():
    broken = [
        f"{path.name}: {link}"
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert not broken
