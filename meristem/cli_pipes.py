"""Models through pipes: ``-`` is standard input where one is read, standard output where one is written.

What is read is kept in a temporary file, which the rest of a command takes like any other.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from meristem.rewrite.errors import CarrierError, OutputError

STREAM = "-"
_ZIP = b"PK\x03\x04"  # a .pt2 is an archive, an ONNX file is not


def received(path: Path, scope: ExitStack) -> Path:
    """The path, or for ``-`` that of a file with what standard input holds, which lives as long as
    ``scope``; its suffix says what it is.

    Raises CarrierError where standard input is a terminal or empty.
    """
    if str(path) != STREAM:
        return path
    if sys.stdin.isatty():
        raise CarrierError(
            "- reads the model from a pipe, and standard input is a terminal; write < model.onnx",
            path=STREAM,
        )
    file = _folder(scope) / "stdin"
    with file.open("wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    with file.open("rb") as written:
        start = written.read(len(_ZIP))
    if not start:
        raise CarrierError(
            "standard input holds no model; the command that writes it may have refused",
            path=STREAM,
        )
    return file.rename(file.with_suffix(".pt2" if start == _ZIP else ".onnx"))


def refuse_two(*paths: Path) -> None:
    """Raises CarrierError where standard input is to be two models."""
    if sum(str(p) == STREAM for p in paths) > 1:
        raise CarrierError(
            "standard input holds one model; give the path of the other", path=STREAM
        )


class Sent:
    """Where a command writes its model: a path, or for ``-`` a temporary file on its way out.

    ``path`` is what to write; a pipe carries what was read, ONNX or .pt2, and all that is printed until
    ``scope`` ends goes to standard error. Raises OutputError where standard output is a terminal.
    """

    def __init__(self, wanted: Path, source: Path, scope: ExitStack) -> None:
        self.piped = str(wanted) == STREAM
        self.path = wanted
        if not self.piped:
            return
        if sys.stdout.isatty():
            raise OutputError(
                "-o - writes the model to a pipe, and standard output is a terminal; write > big.onnx",
                path=STREAM,
            )
        suffix = ".pt2" if source.suffix == ".pt2" else ".onnx"
        self.path = _folder(scope) / f"stdout{suffix}"
        self._out = sys.stdout.buffer
        scope.enter_context(redirect_stdout(sys.stderr))

    def send(self, written: list[Path]) -> list[Path]:
        """Pass on what was written; the paths that stay.

        Raises OutputError where the model has a second file for its weights, or nobody reads it.
        """
        if not self.piped or not written:
            return written
        beside = [p for p in written if p.parent == self.path.parent and p != self.path]
        if beside:
            raise OutputError(
                "the weights of this model stand in a file beside it, which a pipe cannot carry; give -o "
                "the path of a file",
                path=STREAM,
            )
        try:
            with self.path.open("rb") as source:
                shutil.copyfileobj(source, self._out)
            self._out.flush()
        except BrokenPipeError as error:
            raise OutputError("nobody reads standard output to its end", path=STREAM) from error
        return [p for p in written if p != self.path] + [Path("standard output")]


def _folder(scope: ExitStack) -> Path:
    return Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="meristem-")))


__all__ = ["STREAM", "Sent", "received", "refuse_two"]
