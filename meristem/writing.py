"""Writing the files of one command all at once: every one, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meristem.rewrite.errors import OutputError

SUFFIXES = (".onnx", ".pt2", ".safetensors")


def check_place(path: Path) -> None:
    """Raises OutputError where no file can stand at a path: no folder to hold it, or a folder itself."""
    if not path.parent.is_dir():
        raise OutputError(
            f"{path} cannot be written: {path.parent} is not a folder; make it first",
            path=str(path),
        )
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the path of a file", path=str(path))


@dataclass(frozen=True)
class Outputs:
    """Where a growth writes: the model, and the plan where one is wanted.

    Creating it checks what can be known before any work: raises OutputError for a suffix that says
    nothing, a folder that is missing, and files that exist (unless ``force``).
    """

    source: Path
    model: Path
    plan: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.model.suffix not in SUFFIXES:
            raise OutputError(
                f"{self.model}: the suffix says what to write; give {', '.join(SUFFIXES)}",
                path=str(self.model),
            )
        for path in self._wanted():
            check_place(path)
        self._refuse_existing(self._wanted())
        if self.plan is not None and self.plan.resolve() in (
            self.model.resolve(),
            self.source.resolve(),
        ):
            raise OutputError(
                f"{self.plan} is a model of this command; give the plan another name",
                path=str(self.plan),
            )

    def _wanted(self) -> list[Path]:
        return [p for p in (self.model, self.plan) if p is not None]

    def _refuse_existing(self, paths: list[Path]) -> None:
        for path in paths:
            if path.exists() and not self.force:
                raise OutputError(
                    f"{path} exists; give another name, or --force to replace it", path=str(path)
                )

    @contextmanager
    def staged(self) -> Iterator[Staged]:
        """A folder beside the output to write into; whatever is not published vanishes with it."""
        folder = self._folder()
        try:
            yield Staged(self, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(prefix=".meristem-", dir=self.model.parent))
        except OSError as error:
            raise OutputError(
                f"{self.model} cannot be written: {error.strerror}; choose a folder that can be",
                path=str(self.model),
            ) from error


@dataclass(frozen=True)
class Staged:
    """Files that are written but not yet in their place."""

    outputs: Outputs
    folder: Path

    @property
    def model(self) -> Path:
        """Where to write the model; external data go beside it under their final names."""
        return self.folder / self.outputs.model.name

    @property
    def plan(self) -> Path | None:
        """Where to write the plan: in a folder of its own, since both may have one name."""
        if self.outputs.plan is None:
            return None
        (self.folder / "plan").mkdir(exist_ok=True)
        return self.folder / "plan" / self.outputs.plan.name

    def publish(self) -> list[Path]:
        """Move everything into its place; the model comes last, so it never lacks its data."""
        moves = {
            p: self.outputs.model.parent / p.name for p in self.folder.iterdir() if p.is_file()
        }
        if self.outputs.plan is not None and self.plan is not None:
            moves[self.plan] = self.outputs.plan
        self.outputs._refuse_existing(list(moves.values()))
        order = sorted(moves, key=lambda p: p == self.model)
        try:
            for path in order:
                if moves[path].parent == self.outputs.model.parent:
                    os.replace(path, moves[path])
                else:  # another file system, perhaps
                    shutil.move(path, moves[path])
        except OSError as error:
            raise OutputError(
                f"{self.outputs.model} cannot be written: {error.strerror}",
                path=str(self.outputs.model),
            ) from error
        return [moves[path] for path in reversed(order)]
