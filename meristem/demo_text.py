"""Text that every machine has: the sources of Python's own standard library, as bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEGABYTES = 4
TIME = 96


@dataclass(frozen=True)
class Text:
    """Bytes to train on and bytes held out, of different files; ``files`` counts them."""

    train: Tensor
    held_out: Tensor
    files: int
    folder: Path

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Random windows of ``TIME + 1`` bytes: [size, TIME + 1], int64."""
        starts = torch.randint(0, len(self.train) - TIME - 1, (size,), generator=generator)
        return _windows(self.train, starts)

    def windows(self, count: int) -> Tensor:
        """Evenly spaced windows of the held-out bytes, always the same."""
        step = (len(self.held_out) - TIME - 1) // count
        return _windows(self.held_out, torch.arange(count) * step)


def standard_library() -> Text:
    """The first megabytes of the standard library; every tenth file is held out."""
    folder = Path(os.__file__).parent
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size = count = 0
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")):
        if "site-packages" in path.parts or "__pycache__" in path.parts:
            continue
        data = path.read_bytes()
        parts[count % 10 == 9].append(data)
        size += len(data)
        count += 1
        if size > MEGABYTES * 2**20:
            break
    train, held_out = (_tensor(b"\n".join(p)) for p in parts)
    return Text(train, held_out, count, folder)


def loss(module: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross entropy of the next byte, in nats."""
    logits = module(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def held_out_loss(module: nn.Module, text: Text, count: int = 64) -> float:
    """The loss on held-out text in eval mode; the module's mode is restored."""
    mode = module.training
    module.eval()
    with torch.no_grad():
        value = float(loss(module, text.windows(count)))
    module.train(mode)
    return value


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _windows(data: Tensor, starts: Tensor) -> Tensor:
    return data[starts[:, None] + torch.arange(TIME + 1)].long()
