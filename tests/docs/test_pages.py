"""The code of the pages runs, and prints what the pages say."""

import re
import subprocess
import sys

import pytest

from tests.house.tree import ROOT

BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
PAGES = ("docs/how-it-works.md", "docs/add-an-operator.md")


def blocks(page):
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    code = "\n".join(body for kind, body in found if kind == "python")
    said = "".join(body for kind, body in found if kind == "text")
    return code, said


def words(text):
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path):
    """In a process of its own: pages register operators."""
    code, said = blocks(page)
    assert code
    assert said
    script = tmp_path / "page.py"
    script.write_text(
        f"import sys, warnings\nwarnings.simplefilter('ignore')\nsys.path.append({str(ROOT)!r})\n{code}"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert words(done.stdout) == words(said)


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
