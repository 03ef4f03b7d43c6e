"""Kill the plain example at random moments around its growths, resume it, and print what came out.

    python killed.py train_plain.py folder kills seed

One process imports everything once and forks a child for each run; it never trains itself. A moment is
something that a run says (a step before a growth, that it grows, that it has grown, a step after it) and
a random time from then: within a growth a part of what the undisturbed run took for it, else up to a tenth
of a second.
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

import meristem

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


def kill(pid, lines, said, wait):
    """Kill a run so long after it said something; what it had said last."""
    last = ""
    for line in lines:
        last = line.strip()
        if last.startswith(said):
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
    meristem.trace(
        example.NextByte(), (example.batches()[0][:4],)
    )  # what it imports, children have
    said, undisturbed = finish(*child(example, folder / "undisturbed"))
    begun = [i for i, (_, line) in enumerate(said) if line.startswith("growing")]
    out = {"undisturbed": undisturbed, "growths": len(begun), "kills": []}
    for number in range(kills):
        place, at = folder / f"kill{number}", begun[number % len(begun)]
        moment = at + draw.choice((-1, 0, 0, 1, 2))
        longest = said[at + 1][0] - said[at][0] if moment == at else 0.1
        wait = draw.random() * longest
        killed, last = kill(*child(example, place), said[moment][1], wait)
        files = sorted(p.name for p in place.iterdir())
        again, value = finish(*child(example, place))
        out["kills"].append(
            {
                "killed": killed, "at": said[moment][1], "wait": wait, "last": last, "files": files,
                "resumed": again[0][1], "loss": value,
            }
        )  # fmt: skip
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
