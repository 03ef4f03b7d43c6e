"""The repository as the tests of the house see it."""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# The library's folders at the repository's top, lowest storey first; `meristem` itself is the face, above
# which `integrations` alone stands.
ROOMS = (
    "rewrite", "carriers", "passes", "frontends", "backends", "training", "verify", "pages",
    "integrations",
)  # fmt: skip

# Where a distribution's name is not what one imports.
_IMPORT_NAMES = {
    "onnxruntime-gpu": "onnxruntime",
    "huggingface-hub": "huggingface_hub",
    "pyyaml": "yaml",
    "olive-ai": "olive",
    "optimum-onnx": "optimum",
}


def dependencies() -> set[str]:
    """Import names of everything that the library declares to need."""
    return _import_names(PROJECT["project"]["dependencies"])


def extra(name: str) -> set[str]:
    """Import names of one of the optional groups."""
    return _import_names(PROJECT["project"]["optional-dependencies"][name])


def _import_names(requirements: list[str]) -> set[str]:
    names = [re.split(r"[^\w-]", text)[0].lower() for text in requirements]
    return {_IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def sources(folder: str) -> Iterator[tuple[str, Path]]:
    """Every module of one folder as (dotted name, path). Links are not followed."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "meristem" else ("meristem", *parts)
        yield ".".join(parts).removesuffix(".__init__"), path


def library() -> Iterator[tuple[str, Path]]:
    for folder in ("meristem", *ROOMS):
        yield from sources(folder)


def imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in it, as (dotted name, line).

    `from meristem import rewrite` counts as an import of `meristem.rewrite`, and relative imports
    are resolved.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            if base == "meristem":
                for alias in node.names:
                    yield f"meristem.{alias.name}", node.lineno
            else:
                yield base, node.lineno


def files() -> list[Path]:
    """Every file that is, or would be, under version control; links left out."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        hidden = {".venv", "__pycache__", "build", "dist"}
        paths = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())
