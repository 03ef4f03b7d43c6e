"""A network in a LightningModule that grows while it is trained, and is resumed.

    python examples/train_lightning.py [folder]

The training losses are watched, and the network grows when they have come to a plateau. After the run its
second half is done again from a checkpoint with the small network.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from meristem.integrations import LightningGrowth
from meristem.training import Plateau, Schedule, Stage

CONTEXT, EPOCHS = 6, 5


class NextByte(nn.Module):
    """The next byte of a text from the bytes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 8)
        self.up = nn.Linear(8 * CONTEXT, 16)
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(16, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(F.relu(self.up(self.embed(x).flatten(1)))))


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = NextByte()
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        inputs, targets = batch
        loss = F.cross_entropy(self.net(inputs), targets)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def data() -> DataLoader:
    text = torch.tensor(list(Path(tempfile.__file__).read_bytes()))[:3000]
    windows = text.unfold(0, CONTEXT + 1, 1)
    return DataLoader(TensorDataset(windows[:, :-1], windows[:, -1]), batch_size=64)


def train(folder: str, checkpoint: str | None = None) -> tuple[Lit, LightningGrowth]:
    lightning.seed_everything(0, verbose=False)
    growth = LightningGrowth(
        Schedule([Stage({"mlp": "x4"}, Plateau(patience=4, tolerance=0.02, window=10))]),
        module="net",
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[growth, ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Lit()
    trainer.fit(module, data(), ckpt_path=checkpoint)
    return module, growth


def main(folder: str) -> None:
    module, growth = train(folder)
    (entry,) = growth.growths
    print("grown at step {step}: {parameters[0]:,} -> {parameters[1]:,} parameters".format(**entry))
    at = entry["step"]
    print("losses around it:", [round(x, 3) for x in module.losses[at - 2 : at + 2]])
    again, _ = train(folder, f"{folder}/epoch={EPOCHS - 2}.ckpt")
    rest = module.losses[-len(again.losses) :]
    print("resumed; largest difference of a loss:",
          max(abs(a - b) for a, b in zip(again.losses, rest, strict=True)))  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Lightning's advice on workers and loggers
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(place)
