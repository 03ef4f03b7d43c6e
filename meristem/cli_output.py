"""How the command line speaks: results on standard output, the rest on standard error."""

from __future__ import annotations

import json as json_text
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

SAME, DIFFERS, REFUSED, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130

# Where a result is not shown on a terminal, tables are laid out for this many columns.
COLUMNS = 80


@contextmanager
def command(json: bool) -> Iterator[ExitStack]:
    """Run a command: refusals become one message and exit code 2, without a traceback.

    What the command enters into the given stack is left at its end.
    """
    from meristem.rewrite.errors import MeristemError

    try:
        with ExitStack() as scope:
            yield scope
    except MeristemError as error:
        _refuse(error, json)
        raise typer.Exit(REFUSED) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        traceback.print_exc()
        typer.echo("this is an error in meristem, not in your request; please report it", err=True)
        raise typer.Exit(BROKEN) from error


def _refuse(error: Exception, json: bool) -> None:
    kind = type(error).__name__
    if json:
        data({"error": {"type": kind, "message": str(error)}})
    typer.echo(f"meristem: {kind}: {error}", err=True)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on standard error what takes time, and how long; nothing where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


def data(value: Any) -> None:
    """Print a result for machines."""
    typer.echo(json_text.dumps(value, indent=1))


def show(*parts: RenderableType) -> None:
    """Print a result for people."""
    console = Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else COLUMNS, highlight=False
    )
    for part in parts:
        console.print(part)


def show_text(words: str, style: str = "") -> None:
    """Print words as they are, brackets and all."""
    show(Text(words, style=style))


def exit_code(report: Any) -> int:
    """0 where something was measured and nothing differs, 1 where it differs, else 2."""
    if report.ok:
        return SAME
    return DIFFERS if any(v.checked for v in report.levels.values()) else REFUSED
