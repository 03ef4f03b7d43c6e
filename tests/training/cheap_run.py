"""A run function for tests of the search: an invented law in place of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from meristem.rewrite.errors import SizeError
from meristem.training.progress import Progress
from meristem.training.schedule import Schedule

PARTS = 20


def run(schedule: Schedule, budget: float) -> Iterator[tuple[float, float]]:
    """A larger model has a lower floor, and a FLOP takes a smaller part of the way there."""
    progress = Progress(schedule)
    sizes = dict(schedule.start)
    flops, loss = 0.0, 8.0
    for _ in range(PARTS):
        while progress.update(flops=flops):
            stage = progress.stage
            assert stage is not None
            if stage.method == "lemon":
                raise SizeError("lemon grows no such model")
            sizes |= {s: int(n) for s, n in stage.sizes.items()}
            progress.advance()
        size = math.prod(sizes.values())
        floor = 2 + 20 / size
        flops += budget / PARTS
        loss = floor + (loss - floor) * math.exp(-budget / PARTS * 2e-8 / size)
        yield loss, flops


def last(schedule: Schedule, budget: float) -> tuple[float, float]:
    """The same without what comes on the way."""
    return list(run(schedule, budget))[-1]


def broken(schedule: Schedule, budget: float) -> tuple[float, float]:
    raise ZeroDivisionError("no data")


def even(sizes: Mapping[str, int]) -> None:
    """In place of the traced model of these sizes, for ``--check``."""
    raise SizeError(f"no model has the sizes {dict(sizes)}")
