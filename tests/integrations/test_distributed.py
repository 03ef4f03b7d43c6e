"""Two processes that grow lose what one process loses."""

import json
import os
import subprocess
import sys

import pytest

from tests.house.tree import ROOT

EXAMPLE = ROOT / "examples" / "train_distributed.py"
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(mode, before=()):
    said = [line.split(":") for line in run(*before, EXAMPLE, mode).splitlines() if ":" in line]
    assert [words for words, _ in said] == ["grown", "around the growth", "last"]
    return [float(x) for _, numbers in said[1:] for x in numbers.split()]


@pytest.mark.full
def test_growth_between_stages_of_ddp_and_fsdp():
    alone = losses("plain")
    assert len(alone) == 8
    assert alone[-1] < alone[0] - 0.3  # it trains
    for mode in ("ddp", "fsdp"):
        assert max(abs(a - b) for a, b in zip(losses(mode, TWO), alone, strict=True)) < 1e-4


# Trainer shards the data of a step over its processes, whose batches are half as large then.
SCRIPT = """
import json, sys, torch, transformers
from meristem.integrations import TrainerGrowth
from meristem.training import AtStep, Schedule, Stage
from tests.integrations.models import examples, tagger

torch.set_num_threads(1)
folder, batch, resume = sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or [None])[0]
growth = TrainerGrowth(Schedule([Stage({"mlp": "x2"}, AtStep(4))]))
arguments = transformers.TrainingArguments(
    folder, per_device_train_batch_size=batch, max_steps=8, logging_steps=1, save_steps=3, report_to=[],
    use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
)
model = tagger()
for block in model.blocks:
    block.drop.p = 0.0
trainer = transformers.Trainer(model, arguments, train_dataset=examples(40), callbacks=[growth])
growth.train(trainer, resume_from_checkpoint=resume)
if arguments.process_index == 0:
    seen = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    print("said", json.dumps([seen, len(growth.growths)]))
"""


def trained(*command):
    (said,) = (line for line in run(*command).splitlines() if line.startswith("said"))
    return json.loads(said.removeprefix("said"))


@pytest.mark.full
def test_growth_under_trainer_in_two_processes(tmp_path):
    """The model grows while the processes stand; the checkpoint before it and one after it are resumed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    undisturbed = trained(*TWO, script, tmp_path / "two", "2")
    assert undisturbed[1] == 1
    for step in (4, 6):
        start = tmp_path / "two" / f"checkpoint-{step}"
        assert trained(*TWO, script, tmp_path / "two", "2", start) == undisturbed
    alone, _ = trained(script, tmp_path / "one", "4")
    assert max(abs(a - b) for a, b in zip(alone, undisturbed[0], strict=True)) < 1e-4
