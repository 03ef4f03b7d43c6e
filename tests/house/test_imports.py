"""The direction of imports: rewrite <- carriers <- the rooms side by side <- the face."""

import subprocess
import sys

import pytest

from tests.house.tree import ROOMS, dependencies, extra, imports, library, sources

STOREYS = {
    "rewrite": {"rewrite"},
    "carriers": {"rewrite", "carriers"},
    "passes": {"rewrite", "carriers", "passes"},
    "frontends": {"rewrite", "carriers", "frontends"},
    "backends": {"rewrite", "carriers", "backends"},
    "training": {"rewrite", "carriers", "training"},
    "verify": {"rewrite", "carriers", "verify"},
    "pages": {"rewrite", "pages"},
    # Above the face: `import meristem` itself, and the training room's public names.
    "integrations": {"", "training", "integrations"},
}
# One distribution under two names: who has either can use the callback.
LOOPS = extra("trainer") | extra("lightning") | {"pytorch_lightning"}
# Pydantic is how Olive states its configurations.
PIPELINES = extra("olive") | extra("optimum") | {"pydantic"}
OUTSIDE = {
    "rewrite": {"numpy", "networkx"},
    "carriers": {"torch", "numpy", "networkx", "safetensors"},
    "pages": {"jinja2", "markupsafe"},
}


def _outside(room: str, top: str) -> bool:
    if top in sys.stdlib_module_names:
        return True
    if room == "carriers" and top in {name for name in dependencies() if name.startswith("onnx")}:
        return True
    more = LOOPS | PIPELINES if room == "integrations" else set()
    return top in OUTSIDE.get(room, dependencies()) | more


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_below_it(room):
    wrong = []
    for name, path in sources(room):
        for target, line in imports(name, path):
            top, _, rest = target.partition(".")
            inside = top == "meristem"
            if not (rest.partition(".")[0] in STOREYS[room] if inside else _outside(room, top)):
                wrong.append(f"{path}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_face_imports_only_declared_dependencies():
    wrong = []
    for name, path in sources("meristem"):
        for target, line in imports(name, path):
            top = target.partition(".")[0]
            if top != "meristem" and top not in sys.stdlib_module_names | dependencies():
                wrong.append(f"{path}:{line} imports {target}")
            if target.startswith("meristem.integrations"):
                wrong.append(f"{path}:{line} imports {target}, which stands above it")
    assert not wrong, "\n".join(wrong)


def _run(code: str, folder) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_meristem_is_cheap(tmp_path):
    code = "import sys, meristem; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(_run(code, tmp_path).split())
    assert "meristem" in loaded
    assert not loaded & (dependencies() - {"numpy", "networkx", "rich", "typer"})
    assert not loaded & (LOOPS | PIPELINES | {"timm", "torchvision"})


def test_importing_rewrite_needs_numpy_and_networkx_alone(tmp_path):
    names = [name for name, _ in sources("rewrite")]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = set(_run(code, tmp_path).split())
    assert not loaded & (dependencies() - {"numpy", "networkx"})


def test_every_module_imports_under_one_name(tmp_path):
    names = [name for name, _ in library() if not name.endswith("__main__")]
    code = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*(name for name in sys.modules if '.' not in name))"
    )
    loaded = set(_run(code, tmp_path).split())
    assert not loaded & set(ROOMS)
