"""What is installed is what is in the repository, under the one name."""

import ast
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.house.tree import PROJECT, ROOMS, ROOT, dependencies, library

TABLE = PROJECT["tool"]["setuptools"]


def _packages_on_disk() -> set[str]:
    return {name for name, path in library() if path.name == "__init__.py"}


def test_every_folder_of_sources_is_a_listed_package():
    assert sorted(TABLE["packages"]) == sorted(_packages_on_disk())
    without_init = {
        path.parent for _, path in library() if not (path.parent / "__init__.py").exists()
    }
    assert not without_init


def test_every_package_is_mapped_to_its_folder():
    expected = {
        name: name.removeprefix("meristem.").replace(".", "/") for name in TABLE["packages"]
    }
    assert TABLE["package-dir"] == expected


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_linked_into_the_package(room):
    link = ROOT / "meristem" / room
    if link.is_file() and not link.is_symlink():
        pytest.skip(
            "this checkout was made without symbolic links; only uninstalled use needs them"
        )
    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../{room}"
    assert link.resolve() == ROOT / room


def test_nothing_else_is_linked():
    links = {path.name for path in (ROOT / "meristem").iterdir() if path.is_symlink()}
    assert links <= set(ROOMS)


def test_no_module_is_named_like_a_dependency():
    taken = dependencies() | {"transformers", "timm", "torchvision", "pytest", "hypothesis"}
    assert not [str(path) for _, path in library() if path.stem in taken]


def test_the_command_exists():
    module, _, function = PROJECT["project"]["scripts"]["meristem"].partition(":")
    path = dict(library()).get(module)
    assert path is not None, f"{module} is missing"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build writes into its sources, and old builds get shipped."""
    source = tmp_path_factory.mktemp("source") / "tree"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("meristem", *ROOMS):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", target, source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    shipped = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in shipped} == {"meristem"}
    templates = (ROOT / "pages" / "templates").iterdir()
    expected = {"meristem/py.typed", *(f"meristem/pages/templates/{p.name}" for p in templates)}
    for _, path in library():
        relative = path.relative_to(ROOT).as_posix()
        expected.add(relative if relative.startswith("meristem/") else f"meristem/{relative}")
    assert shipped == expected
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_imports_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # -I leaves the environment out; the unpacked wheel goes before whatever is installed.
    code = (
        f"import sys, importlib, pathlib\nsys.path.insert(0, {str(site)!r})\n"
        f"for name in {sorted(TABLE['packages'])!r}:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert pathlib.Path(module.__file__).is_relative_to({str(site)!r}), module.__file__\n"
        f"assert not {set(ROOMS)!r} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
