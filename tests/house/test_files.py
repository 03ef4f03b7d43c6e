"""Rules that a reader relies on: short files, the same stem everywhere, no architecture's name."""

import re

from tests.house.tree import ROOMS, ROOT, files, library

LONGEST = 400

# Anywhere in a word. `clip` is left out: it is an operator.
ARCHITECTURES = (
    "gpt2", "gpt_neo", "gptneo", "gptj", "llama", "bert", "mistral", "mixtral", "qwen", "gemma",
    "deepseek", "bloom", "falcon", "whisper", "mamba", "electra", "bart", "deit", "convnext",
    "resnet", "efficientnet", "mobilenet", "wav2vec",
)  # fmt: skip
# As a word of its own, or as a part between underscores.
SHORT_ARCHITECTURES = ("gpt", "t5", "vit", "swin", "phi3", "olmo")
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|workspace|opt|mnt|srv|Users)/[\w.]")
INDEX = re.compile(
    "|".join(
        re.escape(host)
        for host in ("pypi" + ".org", "python" + "hosted", "download.pytorch" + ".org")
    )
    + r"|(?:index-url|find-links|INDEX_URL)\W+\w+://"
)


def _relative(path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_long():
    long = {
        _relative(path): length
        for _, path in library()
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert not long


def test_every_pass_has_its_test_and_its_page():
    stems = [path.stem for path in sorted((ROOT / "passes").glob("*.py"))]
    twins = [
        twin
        for stem in stems
        if stem not in {"__init__", "base"}
        for twin in (f"docs/passes/{stem}.md", f"tests/passes/test_{stem}.py")
    ]
    missing = [twin for twin in twins if not (ROOT / twin).is_file()]
    assert not missing


def test_every_page_and_test_of_a_pass_has_its_pass():
    stems = {path.stem for path in (ROOT / "passes").glob("*.py")}
    pages = {path.stem for path in (ROOT / "docs" / "passes").glob("*.md")}
    assert pages - {"README", "index"} <= stems


def test_the_library_names_no_architecture():
    anywhere = "|".join(ARCHITECTURES)
    alone = "|".join(SHORT_ARCHITECTURES)
    names = re.compile(rf"{anywhere}|(?<![a-z0-9])(?:{alone})(?![a-z0-9])", re.IGNORECASE)
    found = []
    for _, path in library():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := names.search(line):
                found.append(f"{_relative(path)}:{number} says {match[0]!r}")
    assert not found, "\n".join(found)


def test_the_repository_names_no_machine_and_no_index():
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := MACHINE_PATH.search(line) or INDEX.search(line):
                found.append(f"{_relative(path)}:{number} names {match[0]!r}")
    assert not found, "\n".join(found)


def test_rooms_are_the_folders_of_the_library():
    """A new room at the top has to be entered in tree.py, pyproject.toml and the links."""
    other = {"tests", "docs", "examples", "benchmarks", "meristem", "build", "dist"}
    folders = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.glob("*.py"))
    }
    assert folders - other == set(ROOMS)
