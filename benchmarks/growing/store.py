"""Finished runs, one file each, and the tuning of the learning rate that they are part of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from growing.report import final
from growing.table import ROWS, SIZES, Row, config


class Store:
    """The finished runs of one size and one text, in a folder named after the text."""

    def __init__(self, size: str, corpus: str, results: Path) -> None:
        self.size, self.corpus = size, corpus
        self.folder = results / slug(corpus)

    def path(self, row: str, rate: float, seed: int) -> Path:
        return self.folder / f"{self.size}-{row}-lr{rate:g}-s{seed}.json"

    def get(self, row: Row, rate: float, seed: int) -> dict[str, Any] | None:
        """None where the run is missing or was made with another configuration."""
        path = self.path(row.name, rate, seed)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        wanted = json.loads(json.dumps(config(self.size, row, rate, seed, self.corpus)))
        return found if found["config"] == wanted else None

    def put(self, row: Row, rate: float, seed: int, result: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(row.name, rate, seed)
        known = {"config": config(self.size, row, rate, seed, self.corpus), **result}
        text = json.dumps(known, indent=1)
        path.with_suffix(".new").write_text(compact(text) + "\n")
        path.with_suffix(".new").replace(path)

    def rates(self) -> dict[float, float]:
        """The grid that was run: learning rate to final loss from scratch, seed 0; best first."""
        out = {}
        for path in self.folder.glob(f"{self.size}-scratch-lr*-s0.json"):
            rate = json.loads(path.read_text())["config"]["rate"]
            if found := self.get(ROWS["scratch"], rate, 0):
                out[rate] = final(found)
        return dict(sorted(out.items(), key=lambda item: item[1]))

    def next_rate(self) -> float | None:
        """What the grid is missing; None when the best is inside of it."""
        grid = self.rates()
        for rate in SIZES[self.size].rates:
            if rate not in grid:
                return rate
        best = next(iter(grid))
        if best == min(grid):
            return best / 2
        return best * 2 if best == max(grid) else None

    def rate(self) -> float | None:
        """The tuned learning rate, once its grid is complete."""
        return None if self.next_rate() else next(iter(self.rates()))


def compact(text: str) -> str:
    """A point on one line."""
    numbers = re.compile(r"\[\s+([-\d.eE+,\s]+?)\s+\]")
    return numbers.sub(lambda m: "[" + " ".join(m[1].split()) + "]", text)


def slug(corpus: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", corpus.lower()).strip("-")


def texts(size: str, results: Path) -> list[str]:
    """The names of the texts of which runs are stored, the one with most runs first."""
    count: dict[str, int] = {}
    for path in sorted(results.glob(f"*/{size}-*.json")):
        name = json.loads(path.read_text())["config"]["corpus"]
        count[name] = count.get(name, 0) + 1
    return sorted(count, key=lambda name: -count[name])
