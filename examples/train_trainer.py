"""A language model under Hugging Face Trainer that grows while it is trained, and is resumed.

    python examples/train_trainer.py [folder]

The model's own class goes on with larger sizes, so that every checkpoint is one that ``from_pretrained``
loads. After the run the last part is done again from a checkpoint, as after a crash: the model that the
Trainer is given is the small one, and the losses are the same.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from meristem.integrations import TrainerGrowth, from_config
from meristem.training import AtStep, Schedule, Stage

TIME, STEPS, GROW_AT = 32, 24, 10


class Windows(torch.utils.data.Dataset):
    """Windows of the sources of Python's own standard library, byte by byte."""

    def __init__(self) -> None:
        self.text = torch.tensor(list(Path(tempfile.__file__).read_bytes()))

    def __len__(self) -> int:
        return (len(self.text) - 1) // TIME

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.text[index * TIME : (index + 1) * TIME]
        return {"input_ids": window, "labels": window}


def small() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TIME,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def train(folder: str, resume: str | bool | None = None) -> tuple[Trainer, TrainerGrowth]:
    growth = TrainerGrowth(
        Schedule([Stage({"mlp": "x2", "layers": 3}, AtStep(GROW_AT))]),
        rebuild=from_config(intermediate_size="mlp", num_hidden_layers="layers"),
    )
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=8,
        max_steps=STEPS,
        learning_rate=3e-3,
        warmup_steps=4,
        logging_steps=1,
        save_steps=6,
        save_total_limit=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(small(), arguments, train_dataset=Windows(), callbacks=[growth])
    growth.train(trainer, resume_from_checkpoint=resume)
    return trainer, growth


def losses(trainer: Trainer) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in trainer.state.log_history if "loss" in e}


def main(folder: str) -> None:
    trainer, growth = train(folder)
    (entry,) = growth.growths
    print("grown at step {step}: {parameters[0]:,} -> {parameters[1]:,} parameters".format(**entry))
    seen = losses(trainer)
    print("losses around it:", [round(seen[s], 3) for s in range(GROW_AT - 1, GROW_AT + 3)])
    again, _ = train(folder, resume=f"{folder}/checkpoint-18")
    print("resumed at step 18; largest difference of a loss:",
          max(abs(losses(again)[s] - seen[s]) for s in seen))  # fmt: skip
    loaded = LlamaForCausalLM.from_pretrained(f"{folder}/checkpoint-{STEPS}")
    print("from_pretrained:", loaded.config.num_hidden_layers, "layers, last loss", seen[STEPS])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(place)
