"""Does growing save compute? Runs that grow against one from scratch, on real text, seed by seed.

    .venv/bin/python benchmarks/training.py                   # the table of what is stored
    .venv/bin/python benchmarks/training.py --run             # all that is missing, an hour or two
    .venv/bin/python benchmarks/training.py --run --only stack-4,scratch --seeds 0
    .venv/bin/python benchmarks/training.py --run --size 124m # on a GPU; nobody has run it yet
    .venv/bin/python benchmarks/training.py --report          # write docs/training/benchmark.md, .png

Every finished run is one file under benchmarks/results/training; an interrupted benchmark goes on with what
is missing. First the learning rate is tuned for training from scratch (seed 0), then all runs use it.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from growing import table
from growing.corpus import Corpus, read
from growing.report import final
from growing.table import ROWS, SIZES, Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training"
CACHE = ROOT / "build" / "training"


class Store:
    """The finished runs of one size and one text."""

    def __init__(self, size: str, corpus: str, folder: Path) -> None:
        self.size, self.corpus, self.folder = size, corpus, folder

    def path(self, row: str, rate: float, seed: int) -> Path:
        return self.folder / f"{self.size}-{row}-lr{rate:g}-s{seed}.json"

    def get(self, row: Row, rate: float, seed: int) -> dict[str, Any] | None:
        """None where the run is missing or was made with another configuration."""
        path = self.path(row.name, rate, seed)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        wanted = json.loads(json.dumps(table.config(self.size, row, rate, seed, self.corpus)))
        return found if found["config"] == wanted else None

    def put(self, row: Row, rate: float, seed: int, result: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(row.name, rate, seed)
        known = {"config": table.config(self.size, row, rate, seed, self.corpus), **result}
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


def run(store: Store, corpus: Corpus, row: Row, rate: float, seed: int) -> None:
    from growing.run import Run

    if store.get(row, rate, seed):
        return
    say(f"{row.name}, rate {rate:g}, seed {seed}")
    # Stages that runs share; a folder of other results has its own.
    cache = CACHE if store.folder == RESULTS else store.folder / "stages"
    result = Run(row, SIZES[store.size], corpus, rate, seed, cache).result()
    store.put(row, rate, seed, result)
    say(f"  loss {result['points'][-1][2]:.4f}, {result['processor_seconds']:.0f} s of processor")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    gc.set_threshold(100_000, 20, 20)  # tracing makes millions of objects that live to its end
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument(
        "--corpus", type=Path, help="another text: a file, or a folder of text files"
    )
    parser.add_argument("--only", help="names of rows, with commas between them")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--run", action="store_true", help="do what is missing")
    parser.add_argument("--list", action="store_true", help="the rows, and which seeds are stored")
    parser.add_argument("--report", action="store_true", help="write the page and its pictures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where finished runs lie")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [ROWS[name] for name in given.only.split(",")] if given.only else list(ROWS.values())
    seeds = [int(seed) for seed in given.seeds.split(",")]
    corpus = read(given.corpus)
    store = Store(given.size, corpus.name, given.results)
    if given.run:
        while rate := store.next_rate():
            run(store, corpus, ROWS["scratch"], rate, 0)
        rate = store.rate()
        for seed in seeds:
            for row in rows:
                run(store, corpus, row, rate, seed)
    from growing import report

    if given.list:
        print(report.listing(store))
    elif given.report:
        from growing.pages import write

        write(store, ROOT / "docs" / "training")
    else:
        print(report.table(store))


if __name__ == "__main__":
    main()
