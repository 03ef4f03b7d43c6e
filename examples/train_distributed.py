"""Training on several processes, with a growth between two stages.

    torchrun --nproc-per-node 2 examples/train_distributed.py ddp
    torchrun --nproc-per-node 2 examples/train_distributed.py fsdp
    python examples/train_distributed.py plain

Each stage is a run of its own. Its sharded weights and optimizer state are saved with
torch.distributed.checkpoint; the first process reads them whole, grows both, and all processes shard the
result again. The losses are those of a single process with the same batches.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import meristem
from meristem.demo_model import Decoder, Sizes

SMALL = Sizes(hidden=32, layers=2, heads=2, kv_heads=1, qk_dim=8, value_dim=8, mlp=48, dropout=0.0)
LARGE = replace(SMALL, mlp=96, layers=3)
GROWTH = {"mlp": LARGE.mlp, "layers": LARGE.layers}
TIME, BATCH, STEPS, RATE = 24, 8, 12, 3e-3


def wrap(module: nn.Module, mode: str) -> nn.Module:
    if mode == "ddp":
        return DistributedDataParallel(module)
    if mode == "fsdp":
        for block in module.blocks:
            fully_shard(block)
        return fully_shard(module)
    return module


def batch(step: int, rank: int, world: int) -> Tensor:
    """This process's share of the step's windows."""
    text = torch.tensor(list(Path(tempfile.__file__).read_bytes()))
    draw = torch.Generator().manual_seed(step)
    starts = torch.randint(0, len(text) - TIME - 1, (BATCH,), generator=draw)
    return torch.stack([text[i : i + TIME + 1] for i in starts])[rank::world]


def loss_of(module: nn.Module, windows: Tensor) -> Tensor:
    return F.cross_entropy(module(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train(module: nn.Module, optimizer: Any, steps: range, rank: int, world: int) -> list[float]:
    """Train in place; the losses of all processes together."""
    seen = []
    module.train()
    for step in steps:
        loss = loss_of(module, batch(step, rank, world))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.detach().clone()
        if world > 1:
            dist.all_reduce(value)
        seen.append(value.item() / world)
    return seen


def whole(folder: str) -> tuple[nn.Module, dict[str, Any]]:
    """The small module, and its optimizer's state by names, from a sharded checkpoint, in one process."""
    module = Decoder(SMALL)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    weights, state = get_state_dict(module, optimizer)
    dcp.load({"weights": weights, "optimizer": state}, checkpoint_id=folder, no_dist=True)
    module.load_state_dict(weights)
    return module, state


def grow(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimizer state of the larger model."""
    small, state = whole(folder)
    model = meristem.trace(small, (batch(0, 0, 1)[:, :-1],))
    grown = meristem.grow(model, GROWTH, compensate="weights")
    print(f"grown: {model.parameters:,} -> {grown.parameters:,} parameters", flush=True)
    return grown.state_dict(), grown.optimizer_state(state, torch.optim.AdamW)


def main(mode: str, folder: str) -> None:
    rank, world = (dist.get_rank(), dist.get_world_size()) if mode != "plain" else (0, 1)
    torch.manual_seed(0)
    module = wrap(Decoder(SMALL), mode)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    losses = train(module, optimizer, range(STEPS), rank, world)

    weights, state = get_state_dict(module, optimizer)
    dcp.save({"weights": weights, "optimizer": state}, checkpoint_id=folder, no_dist=world == 1)

    weights, state = grow(folder) if rank == 0 else ({}, {})
    module = wrap(Decoder(LARGE), mode)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=world > 1)
    set_model_state_dict(module, weights, options=options)
    set_optimizer_state_dict(module, optimizer, state, options=options)
    losses += train(module, optimizer, range(STEPS, 2 * STEPS), rank, world)
    if rank == 0:
        print("around the growth:", *(f"{x:.5f}" for x in losses[STEPS - 2 : STEPS + 3]))
        print("last:", *(f"{x:.5f}" for x in losses[-3:]))


if __name__ == "__main__":
    mode = sys.argv[1] if len(sys.argv) > 1 else "plain"
    torch.set_num_threads(1)
    if mode != "plain":
        dist.init_process_group("gloo")
    place = tempfile.TemporaryDirectory() if not int(os.environ.get("RANK", 0)) else None
    share = [place.name if place else None]
    if mode != "plain":
        dist.broadcast_object_list(share)
    main(mode, share[0])
    if mode != "plain":
        dist.barrier()
        dist.destroy_process_group()
    if place:
        place.cleanup()
