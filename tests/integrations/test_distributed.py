"""Two processes that grow between two stages lose what one process loses."""

import os
import subprocess
import sys

import pytest

from tests.house.tree import ROOT

EXAMPLE = ROOT / "examples" / "train_distributed.py"
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def losses(mode, before=()):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *before, EXAMPLE, mode],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.split(":") for line in done.stdout.splitlines() if ":" in line]
    assert [words for words, _ in said] == ["grown", "around the growth", "last"]
    return [float(x) for _, numbers in said[1:] for x in numbers.split()]


@pytest.mark.full
def test_growth_between_stages_of_ddp_and_fsdp():
    alone = losses("plain")
    assert len(alone) == 8
    assert alone[-1] < alone[0] - 0.3  # it trains
    for mode in ("ddp", "fsdp"):
        assert max(abs(a - b) for a, b in zip(losses(mode, TWO), alone, strict=True)) < 1e-4
