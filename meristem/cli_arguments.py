"""What the command line's words mean: sizes, positions, plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from meristem.model import Model
    from meristem.rewrite.plan import Plan


def parse_sizes(words: Sequence[str]) -> dict[str, int | str]:
    """``mlp=4096``, ``heads=+2``, ``mlp@*.3.*=x1.5`` as the mapping that ``meristem.grow`` takes.

    Raises SizeError and SelectorError where a word is no pair, or a selector comes twice.
    """
    from meristem.rewrite.errors import SelectorError, SizeError
    from meristem.rewrite.request import check_target

    out: dict[str, int | str] = {}
    for word in words:
        selector, equals, size = (part.strip() for part in word.rpartition("="))
        if not equals or not selector:
            raise SizeError(f"--set {word!r}: give SELECTOR=SIZE, such as mlp=4096 or heads=+2")
        target: int | str = int(size) if size.isdecimal() else size
        check_target(selector, target)
        if out.setdefault(selector, target) != target:
            raise SelectorError(
                f"--set gives {selector!r} two sizes, {out[selector]} and {target}; give one",
                selector=selector,
            )
    return out


def parse_axes(words: Sequence[str] | None) -> dict[str, int] | None:
    """``sequence=2048`` words as the mapping that ``meristem.verify`` takes."""
    out = {}
    for word in words or ():
        name, equals, size = (part.strip() for part in word.rpartition("="))
        if not equals or not name or not size.isdecimal():
            raise typer.BadParameter(f"--size {word!r}: give AXIS=N, such as sequence=2048")
        out[name] = int(size)
    return out or None


def parse_at(word: str | None) -> str | tuple[int, ...] | None:
    """``end``, ``spread``, or positions such as ``0,2``."""
    if word is None or word in ("end", "spread"):
        return word
    try:
        return tuple(int(part) for part in word.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--at {word!r} is neither end nor spread nor positions such as 0,2"
        ) from None


def grow_options(**given: Any) -> dict[str, Any]:
    """The options that were given; a plan keeps its own for the rest."""
    return {name: value for name, value in given.items() if value is not None}


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file; CarrierError where there is none."""
    from meristem.rewrite.errors import CarrierError
    from meristem.rewrite.plan import Plan

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CarrierError(
            f"the plan {path} cannot be read: {reason}; write one with meristem grow --save-plan",
            path=str(path),
        ) from error
    return Plan.from_json(text)


def refuse_beside(
    packages: Sequence[Path],
    models: Sequence[Model],
    plan: Path | None,
    runtime: Sequence[str] | None,
) -> None:
    """Raise CarrierError where a plan is to be held against compiled packages, or a program beside one is
    to run in onnxruntime, which ``verify`` cannot tell from its default."""
    from meristem.rewrite.errors import CarrierError

    if (
        packages
        and "onnxruntime" in (runtime or ())
        and any(m.side.name == "torch" for m in models)
    ):
        raise CarrierError(
            f"--runtime onnxruntime: beside the compiled package {packages[0]} a program runs in torch; "
            "leave --runtime out, or give the program as an ONNX file",
            path=str(packages[0]),
        )
    if packages and plan is not None:
        raise CarrierError(
            f"--plan {plan}: {packages[0]} is a compiled package, which has no graph to hold a plan "
            "against; leave --plan out, or give the model that the package was compiled from",
            path=str(packages[0]),
        )


def read_batches(words: Sequence[str] | None) -> list[Any] | None:
    """The inputs in files and folders, or that functions give; CarrierError where there are none."""
    if not words:
        return None
    from meristem.verify.sources import read_inputs

    return [one.values for one in read_inputs(words)]


@contextmanager
def without_functions() -> Iterator[None]:
    """Say what to do where a method needs a loss, which the command line cannot give."""
    from meristem.rewrite.errors import MeristemError

    try:
        yield
    except MeristemError as error:
        if error.facts.get("needs") != "loss":
            raise
        raise MeristemError(
            f"{error}; the command line takes no such function: make the plan in Python "
            "(meristem.plan(model, sizes, method=..., loss=...).to_json()), and carry it out with --plan"
        ) from error


def read_given(words: Sequence[str] | None) -> dict[str, Any] | None:
    """``NAME=mean`` words and .safetensors files as the mapping that ``meristem.grow`` takes.

    Raises CarrierError where a file cannot be read, MeristemError where a name comes twice.
    """
    from meristem.rewrite.errors import CarrierError, MeristemError

    out: dict[str, Any] = {}
    for word in words or ():
        name, equals, fill = word.rpartition("=")
        if equals and not word.endswith(".safetensors"):
            new: dict[str, Any] = {name.strip(): fill.strip()}
        else:
            from safetensors import SafetensorError
            from safetensors.numpy import load_file

            try:
                new = dict(load_file(word))
            except (OSError, SafetensorError, KeyError, TypeError) as error:
                raise CarrierError(
                    f"--given {word}: {error}; give NAME=mean, or a .safetensors file with the new rows "
                    "by weight name, in float32",
                    path=word,
                ) from error
        twice = sorted(out.keys() & new.keys())
        if twice:
            raise MeristemError(f"--given has {twice[0]!r} twice; give it once")
        out |= new
    return out or None
