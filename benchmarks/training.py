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
import sys
from pathlib import Path

import torch
from growing.corpus import Corpus, name_of, read
from growing.store import Store, texts
from growing.table import ROWS, SIZES, Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training"
CACHE = ROOT / "build" / "training"


def run(store: Store, corpus: Corpus, row: Row, rate: float, seed: int) -> None:
    from growing.run import Run

    if store.get(row, rate, seed):
        return
    say(f"{row.name}, rate {rate:g}, seed {seed}")
    # Stages that runs share; a folder of other results has its own.
    cache = CACHE if store.folder.parent == RESULTS else store.folder / "stages"
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
    names = given.only.split(",") if given.only else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no such rows: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    name = name_of(given.corpus)
    stored = texts(given.size, given.results)
    if stored and not given.run and not given.corpus and name not in stored:
        name = stored[0]  # of another Python, whose standard library is another text
    store = Store(given.size, name, given.results)
    if given.run:
        corpus = read(given.corpus)
        while rate := store.next_rate():
            run(store, corpus, ROWS["scratch"], rate, 0)
        rate = store.rate()
        for seed in seeds:
            for row in names:
                run(store, corpus, ROWS[row], rate, seed)
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
