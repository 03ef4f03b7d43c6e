"""Peak memory of a process that loads one model and runs it.

    python memory.py onnx model.onnx inputs.npz
    python memory.py torch program.pt2 inputs.npz

Prints the kilobytes that loading and running added to the peak of the process. Large blocks always come
from the system and go back to it: what glibc keeps for later otherwise moves the peak by a third.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

# Read by glibc in the process that measures.
_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONHASHSEED": "0"}


def peak(kind: str, model: Path, inputs: Path) -> int:
    """Kilobytes, from a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, kind, str(model), str(inputs)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | _MALLOC
    )
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr[-500:]}")
    return int(done.stdout.split()[-1])


def resident(name: str) -> int:
    """VmRSS, what this process holds, or VmHWM, the most that it held; kilobytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1])  # type: ignore[index]


def _onnx(path: Path, feeds: dict[str, np.ndarray]) -> None:
    from graphs import session

    loaded = session(path)
    for _ in range(3):
        loaded.run(None, feeds)


def _torch(path: Path, feeds: dict[str, np.ndarray]) -> None:
    import torch

    torch.set_num_threads(1)
    module = torch.export.load(path).module()
    tensors = {n: torch.from_numpy(a) for n, a in feeds.items()}
    with torch.no_grad():
        for _ in range(3):
            module(**tensors)


def main() -> None:
    kind, model, inputs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with np.load(inputs) as file:
        feeds = dict(file)
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401
    import transformers.modeling_outputs  # noqa: F401  (what programs return is registered there)

    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is forgotten
    before = resident("VmRSS")
    {"onnx": _onnx, "torch": _torch}[kind](model, feeds)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()


__all__ = ["peak"]
