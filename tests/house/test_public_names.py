"""The public contract: the names, that they are documented, and that they stay what they are."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

import meristem
from tests.house.tree import library

VERBS = ("trace", "load", "plan", "grow", "verify")
ERRORS = (
    "MeristemError",
    "SelectorError",
    "SizeError",
    "PinnedDimension",
    "UnsupportedOperator",
    "NotPreserved",
    "CarrierError",
    "RuntimeUnavailable",
    "OutputError",
)
CONTRACT = (*VERBS, "Model", "Plan", "Dimension", *ERRORS)


def test_the_contract_is_public():
    assert set(CONTRACT) <= set(meristem.__all__)
    assert len(meristem.__all__) == len(set(meristem.__all__))
    assert set(meristem.__all__) <= set(dir(meristem))


@pytest.mark.parametrize("name", CONTRACT)
def test_a_public_name_exists_and_is_documented(name):
    thing = getattr(meristem, name)
    assert inspect.getdoc(thing)
    assert thing.__module__.split(".")[0] == "meristem"
    # A subclass without words of its own would inherit its parent's.
    assert not inspect.isclass(thing) or "__doc__" in vars(thing)


def test_every_public_name_exists():
    for name in meristem.__all__:
        assert getattr(meristem, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = meristem.no_such_name


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_tree(name):
    error = getattr(meristem, name)
    assert issubclass(error, meristem.MeristemError)
    assert issubclass(error, Exception)


def _signature(verb: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(meristem, verb)).parameters)


def test_signatures_are_the_contract():
    assert list(_signature("trace")) == ["module", "args", "kwargs", "dynamic_shapes"]
    assert list(_signature("load")) == ["source"]
    assert list(_signature("plan")) == [
        "model", "sizes", "method", "boundary", "compensate", "at", "seed", "given", "models", "loss",
        "batches",
    ]  # fmt: skip
    assert list(_signature("grow"))[:2] == ["model", "sizes_or_plan"]
    assert list(_signature("verify")) == [
        "model", "grown", "runtime", "providers", "inputs", "dtypes", "optimizations", "sizes", "layers",
        "seed",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["plan", "grow", "verify"])
def test_options_are_given_by_name(verb):
    options = list(_signature(verb).values())[2:]
    assert options
    keyword_only = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(option.kind in keyword_only for option in options)


def test_options_that_are_none_are_named():
    model = meristem.trace(torch.nn.Linear(2, 2).eval(), (torch.randn(3, 2),))
    with pytest.raises(TypeError, match=r"takes no bogus=; besides models=.* it takes method="):
        meristem.grow(model, {}, bogus=1)


def test_defaults_are_the_contract():
    defaults = {name: option.default for name, option in _signature("plan").items()}
    del defaults["model"], defaults["sizes"]
    assert defaults == {
        "method": "preserve",
        "boundary": "pin",
        "compensate": "graph",
        "at": "end",
        "seed": 0,
        "models": (),
        "loss": None,
        "batches": None,
        "given": None,
    }
    assert _signature("trace")["dynamic_shapes"].default == "auto"
    assert _signature("verify")["runtime"].default == "onnxruntime"


def test_errors_resolve_without_torch(tmp_path):
    code = f"import sys, meristem\nfor name in {ERRORS!r}: getattr(meristem, name)\n"
    code += "assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first", ["the room", "the verb"])
def test_a_verb_survives_the_room_of_its_name(first, tmp_path):
    """Importing `meristem.verify` binds the room to the name of the verb."""
    room, verb = "importlib.import_module('meristem.verify')", "meristem.verify"
    order = [room, verb] if first == "the room" else [verb, room]
    code = "\n".join(["import importlib, meristem", *order, "assert callable(meristem.verify)"])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_is_callable_after_every_import():
    for name, _ in library():
        if not name.endswith("__main__"):
            importlib.import_module(name)
    assert all(callable(getattr(meristem, verb)) for verb in VERBS)
