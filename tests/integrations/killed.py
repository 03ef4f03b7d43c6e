"""Kill the plain example at random moments around its growths, resume it, and print what came out.

    python killed.py train_plain.py folder kills seed

One process imports everything once and forks a child for each run; it never trains itself. A moment is an
event of the run (it says when it begins to grow, and when it has grown) and a random part of the time that
the undisturbed run took from there to three steps after the growth.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)


def child(example, folder):
    """A run in a process of its own: its number, and a pipe with what it says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, os.fdopen(reader, encoding="utf-8")
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as told:

        def tell(line):
            told.write(f"{line}\n")
            told.flush()

        value = example.train(folder, tell)
        tell(f"end {value!r}")
    os._exit(0)


def finish(pid, lines):
    """Everything that a run says, with the times, and its final loss."""
    said = [(time.monotonic(), line.strip()) for line in lines]
    _, status = os.waitpid(pid, 0)
    last = said[-1][1]
    if status or not last.startswith("end "):
        raise SystemExit(f"a run died by itself: {status}, {last}")
    return said, float(last.removeprefix("end "))


def kill(pid, lines, growth, wait):
    """Kill a run so long after it began a growth; what it had said last."""
    seen, last = 0, ""
    for line in lines:
        last = line.strip()
        seen += line.startswith("growing")
        if seen == growth:
            break
    time.sleep(wait)
    os.kill(pid, signal.SIGKILL)
    rest = [line.strip() for line in lines]
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status), (rest or [last])[-1]


def main(path, folder, kills, seed):
    spec = importlib.util.spec_from_file_location("example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    draw = random.Random(seed)
    said, undisturbed = finish(*child(example, folder / "undisturbed"))
    begun = [at for at, line in said if line.startswith("growing")]
    after = [
        next(at for at, line in said[i + 5 :]) - said[i][0]
        for i in range(len(said))
        if said[i][1].startswith("growing")
    ]
    out = {"undisturbed": undisturbed, "growths": len(begun), "kills": []}
    for number in range(kills):
        place, growth = folder / f"kill{number}", 1 + number % len(begun)
        wait = draw.random() * after[growth - 1]
        killed, last = kill(*child(example, place), growth, wait)
        files = sorted(p.name for p in place.iterdir())
        again, value = finish(*child(example, place))
        out["kills"].append(
            {
                "killed": killed, "growth": growth, "wait": wait, "last": last, "files": files,
                "resumed": again[0][1], "loss": value,
            }
        )  # fmt: skip
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
