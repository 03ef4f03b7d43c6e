"""``meristem search``: its words, its function, its files."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from meristem import cli_output as out
from meristem.cli_arguments import parse_sizes


def search(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="path.py:function or module:function; function(schedule, budget) gives (loss, flops)",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="SELECTOR=SIZE, what the model grows to; repeatable"),
    ] = None,
    budget: Annotated[float, typer.Option(help="FLOPs of the longest run, such as 1e12")] = 0.0,
    start: Annotated[
        list[str] | None,
        typer.Option(help="SELECTOR=SIZE,SIZE: sizes to begin with (default: quarter, half)"),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="preserve (default), stack, ...: repeatable")
    ] = None,
    growths: Annotated[int, typer.Option(help="at most so many growths in a run")] = 2,
    spend: Annotated[float, typer.Option(help="the least share of the budget of a run")] = 0.25,
    trials: Annotated[int, typer.Option(help="how many runs")] = 20,
    seed: Annotated[int, typer.Option(help="of the choice of schedules")] = 0,
    check: Annotated[
        str | None,
        typer.Option(help="a function like RUN: function(sizes) is the traced model to plan on"),
    ] = None,
    storage: Annotated[
        Path | None, typer.Option(help="trials: a .db (SQLite) or a journal (default: in --out)")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="where the files go")] = Path(
        "meristem-search"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="machine readable results")] = False,
) -> None:
    """Try growth schedules in short runs; the front of loss against compute.

    A search that was stopped goes on: say the same again, with more --trials if you like.
    """
    with out.command(as_json):
        from meristem.feasible import feasible
        from meristem.search_tables import front, line
        from meristem.training.study.picture import draw
        from meristem.training.study.search import search as try_schedules
        from meristem.training.study.space import Space

        sizes = _whole(parse_sizes(target or []))
        space = Space(
            sizes, _starts(start or []), tuple(method or ["preserve"]), growths, spend=spend
        )
        checked = None if check is None else feasible(named_function(check, "--check"))
        function = named_function(run, "RUN")
        _make(folder)

        def tell(trial: Any) -> None:
            if sys.stderr.isatty():
                typer.echo(line(trial), err=True)

        found = try_schedules(
            function, space, budget, trials=trials, seed=seed, check=checked, told=tell,
            storage=folder / "trials.journal" if storage is None else storage,
        )  # fmt: skip
        files = [folder / "search.json", folder / "front.png"]
        data = found.data()
        _write(files[0], json.dumps(data, indent=1) + "\n")
        draw(found, files[1])
        if as_json:
            out.data(data | {"written": [str(f) for f in files]})
        else:
            out.show(front(found, [str(f) for f in files]))


def named_function(word: str, option: str) -> Callable[..., Any]:
    """The function that ``path.py:function`` or ``module:function`` names.

    Raises MeristemError where there is none, or its module cannot be imported.
    """
    from meristem.rewrite.errors import MeristemError

    place, _, name = word.rpartition(":")
    if not place or not name.isidentifier():
        raise MeristemError(f"{option} {word!r}: give path.py:function or module:function")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except Exception as error:
        # Whatever the caller's module raises when it is imported is a matter of the caller's.
        raise MeristemError(f"{option} {place}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise MeristemError(f"{option} {place}: there is no function {name}")
    return function  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    """A module of a file, beside which its own imports are found, as for a script."""
    path = path.resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _whole(sizes: dict[str, int | str]) -> dict[str, int]:
    from meristem.rewrite.errors import SizeError

    for selector, size in sizes.items():
        if not isinstance(size, int):
            raise SizeError(f"--target {selector}={size}: the target of a search is a number")
    return {s: int(n) for s, n in sizes.items()}


def _starts(words: Sequence[str]) -> dict[str, list[int]]:
    from meristem.rewrite.errors import SizeError

    out: dict[str, list[int]] = {}
    for word in words:
        selector, equals, sizes = (p.strip() for p in word.rpartition("="))
        parts = sizes.split(",")
        if not equals or not selector or not all(p.strip().isdecimal() for p in parts):
            raise SizeError(f"--start {word!r}: give SELECTOR=SIZE,SIZE, such as layers=2,4")
        out[selector] = [int(p) for p in parts]
    return out


def _make(folder: Path) -> None:
    from meristem.rewrite.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {folder}: {error.strerror}", path=str(folder)) from error


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    from meristem.rewrite.errors import OutputError

    new = path.with_name(path.name + ".new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error


__all__ = ["named_function", "search"]
