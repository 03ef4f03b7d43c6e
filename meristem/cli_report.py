"""``--report``: what a command found, as a page, also where it refuses or finds a difference."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from meristem.cli_pipes import STREAM

Page = Annotated[
    Path | None,
    typer.Option("--report", help="write a page for a browser: what was found, and why"),
]


@dataclass
class Told:
    """What a command has found so far: ``model``, what it ``grown`` into or is compared with, the
    ``verification`` of both, and the ``request``; ``files`` are the paths of both as they were typed. Where
    two files are compared, ``compared`` are the options and ``plan`` is the path of theirs. A compiled
    package is None among the two."""

    path: Path | None
    command: str = ""
    model: Any = None
    grown: Any = None
    verification: Any = None
    request: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, Path] | None = None
    compared: dict[str, Any] | None = None
    plan: Path | None = None

    def write(self, refusal: Exception | None = None) -> None:
        """Write the page; nothing where none is wanted, or nothing was read yet."""
        read = [m for m in (self.model, self.grown) if m is not None]
        if self.path is None or not read:
            return
        from meristem.reporting import write_page

        grown = self.grown if refusal is None else None
        write_page(
            grown or read[0], self.path, before=self.model if grown else None,
            verification=self.verification, refusal=refusal, request=self.request,
            title=self._title(), command=self.command, compared=self._compared(),
            files=None if self.files is None else tuple(map(str, self.files)),
        )  # fmt: skip
        typer.echo(f"the report is in {self.path}", err=True)

    def _compared(self) -> Any:
        if self.compared is None:
            return None
        from meristem.pages.commands import Compared

        packages = (self.model is None, self.grown is None)
        return Compared(self.compared, "" if self.plan is None else str(self.plan), packages)

    def _title(self) -> str:
        if self.files is None:
            return ""
        pipes = ("standard input", "standard output" if self.compared is None else "standard input")
        names = [w if str(p) == STREAM else p.name for p, w in zip(self.files, pipes, strict=True)]
        return names[0] if self.files[0] == self.files[1] else " → ".join(names)


@contextmanager
def reported(path: Path | None, context: typer.Context) -> Iterator[Told]:
    """A page that is written when the command has done its work, or has refused it.

    Raises OutputError before any work where the page cannot be written.
    """
    from meristem.rewrite.errors import MeristemError

    told = Told(path, typed(context))
    if path is not None:
        from meristem.reporting import check_page

        check_page(path)
    try:
        yield told
    except MeristemError as error:
        told.write(error)
        raise
    told.write()


def typed(context: typer.Context) -> str:
    """The command line again, from what it was understood as."""
    words = ["meristem", *context.command_path.split(" ")[1:]]
    arguments: list[str] = []
    options: list[str] = []
    for p in context.command.params:
        value = context.params.get(p.name)
        if value is None or value == p.default or value is False:
            continue
        values = [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
        if p.param_type_name == "argument":
            arguments += values
        elif value is True:
            options.append(p.opts[0])
        else:
            options += [word for v in values for word in (p.opts[0], v)]
    return shlex.join([*words, *arguments, *options])
