"""Texts to train on: the sources of Python's own standard library, or the text files under a path."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ENDINGS = {".py", ".txt", ".md", ".rst"}
MEGABYTES = 24


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes held out, of different files; ``name`` says which text it is."""

    name: str
    train: Tensor
    held_out: Tensor

    def batch(self, size: int, time: int, generator: torch.Generator) -> Tensor:
        """Random windows of ``time + 1`` bytes: [size, time + 1], int64."""
        starts = torch.randint(0, len(self.train) - time - 1, (size,), generator=generator)
        return windows(self.train, starts, time)

    def checks(self, count: int, time: int) -> Tensor:
        """Evenly spaced windows of the held-out bytes, always the same."""
        step = (len(self.held_out) - time - 1) // count
        return windows(self.held_out, torch.arange(count) * step, time)


def windows(data: Tensor, starts: Tensor, time: int) -> Tensor:
    return data[starts[:, None] + torch.arange(time + 1)].long()


def name_of(path: Path | None) -> str:
    """What a text is called in results."""
    return (
        path.resolve().name if path else f"standard library of Python {platform.python_version()}"
    )


def read(path: Path | None = None, megabytes: float = MEGABYTES) -> Corpus:
    """Files in an order that their names decide, so that no folder comes last; every 20th is held out.

    Raises SystemExit where ``path`` has no text.
    """
    folder = path or Path(os.__file__).parent
    files = [folder] if folder.is_file() else list(inside(folder, sources_only=path is None))
    files.sort(key=lambda f: hashlib.sha256(f.relative_to(folder).as_posix().encode()).digest())
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    for number, file in enumerate(files):
        data = file.read_bytes()
        parts[number % 20 == 19].append(data)
        size += len(data)
        if size > megabytes * 2**20:
            break
    if not parts[1]:  # few files: the last twentieth of their text
        text = b"\n".join(parts[0])
        parts = ([text[: -len(text) // 20]], [text[-len(text) // 20 :]])
    train, held_out = (tensor(b"\n".join(part)) for part in parts)
    if len(held_out) < 2**14:
        raise SystemExit(f"{folder.name} holds too little text: {size} bytes")
    return Corpus(name_of(path), train, held_out)


def inside(folder: Path, *, sources_only: bool) -> list[Path]:
    endings = {".py"} if sources_only else ENDINGS
    return [
        file
        for file in folder.rglob("*")
        if file.suffix in endings and not {"site-packages", "__pycache__"} & set(file.parts)
    ]


def tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
