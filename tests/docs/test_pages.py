"""The code of the pages runs, and prints what the pages say."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from meristem.rewrite.methods import DEPTH, METHODS, UPCYCLE
from tests.house.tree import ROOT

BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
PAGES = ("docs/how-it-works.md", "docs/add-an-operator.md", "docs/report.md")
PASSES, OPERATORS, RUNS, PIPELINES = (
    sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs" / folder).glob("*.md"))
    for folder in ("passes", "methods", "training", "integrations")
)
# Operators whose page has another name: that of the pass that they are about.
ELSEWHERE = {"identity": "layers", "interpolate": "positions"}
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")

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


@pytest.mark.parametrize(
    "pages",
    [pytest.param(p, marks=pytest.mark.full) for p in (PASSES, OPERATORS, RUNS, PIPELINES)],
)
def test_the_pages_of_a_folder_run_and_print_what_they_say(pages, tmp_path):
    found = {page: blocks(page) for page in pages}
    if pages in (RUNS, PIPELINES):  # some are about a script, which has a test of its own
        found = {page: both for page, both in found.items() if both[0]}
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
optimizer = torch.optim.AdamW(module.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
"""
    said = run(before + code, tmp_path)
    assert "layers@blocks: 2 -> 4" in said
    assert (tmp_path / "grown.onnx").is_file()


# Examples of libraries that have an environment of their own.
APART = {"optimum_export.py": "optimum"}


@pytest.mark.full
@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example(example, tmp_path):
    if example in APART and importlib.util.find_spec(APART[example]) is None:
        pytest.skip(f"needs {APART[example]}, which has an environment: make test-pipelines")
    assert run((ROOT / "examples" / example).read_text(encoding="utf-8"), tmp_path)


def page_of(operator):
    """The page of a method, for some of which it is that of a pass."""
    stem = ELSEWHERE.get(operator, operator)
    places = (ROOT / "docs" / folder / f"{stem}.md" for folder in ("methods", "passes"))
    return next((p for p in places if p.is_file()), None)


def test_every_operator_has_a_page():
    """With its formula, its source, when to use it, whether it is exact, and what an optimizer needs."""
    operators = {*METHODS, *DEPTH, UPCYCLE}
    assert not [o for o in operators if page_of(o) is None]
    for page in OPERATORS:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert page.removeprefix("docs/methods/").removesuffix(".md") in operators
        heads = ("**Formula.**", "**When.**", "**Options.**", "**Optimizer.**", "**Refused**")
        assert not [h for h in heads if h not in text], page
        assert "**Exact" in text or "**Approximate" in text, page
        assert "arXiv:" in text or "This project's" in text, page


def links(path):
    """What the prose of a page links to, from its folder."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return {path.parent / link for link in LINK.findall(text)}


def test_every_page_is_linked():
    """From the README, or from a page that the README links."""
    first = {p.resolve() for p in links(ROOT / "README.md") if p.suffix == ".md"}
    linked = first.union(*({p.resolve() for p in links(page)} for page in first))
    assert not [p for p in sorted((ROOT / "docs").rglob("*.md")) if p not in linked]


def test_every_link_leads_somewhere():
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    assert not [f"{page.name}: {p}" for page in pages for p in links(page) if not p.exists()]
