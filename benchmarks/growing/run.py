"""One run: its stages one after another, the loss at equal intervals of FLOPs, and what it cost."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import meristem
from growing.corpus import Corpus
from growing.decoder import Decoder
from growing.table import DECAY, Row, Size, Stage

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0


@dataclass
class State:
    """Where a run stands; ``points`` are (FLOPs, step, loss, processor seconds, wall seconds)."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    draw: torch.Generator
    step: int = 0
    fresh: int = 0
    flops: float = 0.0
    cpu: float = 0.0
    wall: float = 0.0
    points: list[list[float]] = field(default_factory=list)
    grown: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """``cache`` keeps first stages, which many runs share; their cost is in each of them."""

    def __init__(
        self, row: Row, size: Size, corpus: Corpus, rate: float, seed: int, cache: Path
    ) -> None:
        self.row, self.size, self.corpus = row, size, corpus
        self.rate, self.seed, self.cache = rate, seed, cache
        self.device = torch.device(size.device)
        self.held_out = corpus.checks(size.checks, size.shape.context).to(self.device)
        self.budget = size.steps * self.cost(Decoder(size.shape).to(self.device))

    def result(self) -> dict[str, Any]:
        state = self.first_stage()
        for stage in self.row.stages[1:]:
            if stage.sizes:
                state = self.grow(state, stage)
            self.train(state, stage)
        if not state.points or state.points[-1][1] != state.step:
            self.measure(state)
        return {
            "parameters": sum(p.numel() for p in state.module.parameters()),
            "tokens": state.step * self.size.batch * self.size.shape.context,
            "flops": state.flops,
            "scratch_flops": self.budget,
            "processor_seconds": state.cpu,
            "wall_seconds": state.wall,
            "growths": state.grown,
            "columns": ["flops", "step", "loss", "processor_seconds", "wall_seconds"],
            "points": state.points,
            "machine": machine(self.device),
        }

    # Stages

    def first_stage(self) -> State:
        stage, shape = self.row.stages[0], self.row.start(self.size)
        # No first stage reaches the decay of WSD, so it is the same with and without.
        told = [
            asdict(self.size),
            asdict(shape),
            stage.share,
            self.rate,
            self.seed,
            self.corpus.name,
        ]
        path = self.cache / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}.pt"
        torch.manual_seed(self.seed)
        module = Decoder(shape).to(self.device)
        state = State(module, self.fresh(module), torch.Generator().manual_seed(self.seed))
        if path.exists():
            kept = torch.load(path, map_location=self.device, weights_only=False)
            module.load_state_dict(kept["module"])
            state.optimizer.load_state_dict(kept["optimizer"])
            state.draw.set_state(kept["draw"].cpu())
            for name, value in kept["facts"].items():
                setattr(state, name, value)
            return state
        self.measure(state)
        self.train(state, stage)
        facts = {n: getattr(state, n) for n in ("step", "fresh", "flops", "cpu", "wall", "points")}
        self.cache.mkdir(parents=True, exist_ok=True)
        kept = {"module": module.state_dict(), "optimizer": state.optimizer.state_dict()}
        torch.save({**kept, "draw": state.draw.get_state(), "facts": facts}, path)
        return state

    def grow(self, state: State, stage: Stage) -> State:
        """The larger model and its optimizer; the loss is measured on both sides of the growth."""
        self.measure(state)
        cpu, wall = time.process_time(), time.perf_counter()
        window = self.held_out[:2, :-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = meristem.trace(state.module.eval(), (window,))
            grown = meristem.grow(
                model, stage.target(self.size.shape), method=stage.method, seed=self.seed
            )
            module = grown.module().to(self.device)
        if stage.optimizer == "fresh":
            state.optimizer, state.fresh = self.fresh(module), state.step
        else:
            state.optimizer = grown.optimizer(state.optimizer, new=stage.optimizer, module=module)
        state.module = module
        seconds = time.process_time() - cpu
        state.cpu += seconds
        state.wall += time.perf_counter() - wall
        before = state.points[-1][2]
        self.measure(state)
        state.grown.append(
            {
                "step": state.step, "flops": state.flops, "processor_seconds": seconds,
                "loss_before": before, "loss_after": state.points[-1][2],
                "approximate": list(grown.plan.approximate),
            }
        )  # fmt: skip
        return state

    def train(self, state: State, stage: Stage) -> None:
        cost, mark = self.cost(state.module), self.budget / self.size.marks
        steps = self.size.steps
        if stage.share is not None:
            last = state.step + round(stage.share * steps)
        elif self.row.wsd:
            last = steps
        else:
            last = state.step + math.ceil((self.budget - state.flops) / cost - 1e-6)
        while state.step < last:
            cpu, wall = time.process_time(), time.perf_counter()
            for group in state.optimizer.param_groups:
                group["lr"] = self.rate * self.factor(state)
            self.update(state)
            state.cpu += time.process_time() - cpu
            state.wall += time.perf_counter() - wall
            seen = state.flops // mark
            state.step += 1
            state.flops += cost
            if (state.flops + 1e-3 * cost) // mark > seen or state.step == last:
                self.measure(state)

    def factor(self, state: State) -> float:
        """Of the learning rate: the warm-up of a fresh optimizer, and the decay under WSD."""
        steps = self.size.steps
        left = (steps - state.step) / (DECAY * steps) if self.row.wsd else 1.0
        return min(1.0, (state.step - state.fresh + 1) / self.size.warm_up, left)

    def update(self, state: State) -> None:
        tokens = self.corpus.batch(self.size.batch, self.size.shape.context, state.draw)
        state.module.train()
        state.optimizer.zero_grad()
        self.loss(state.module, tokens.to(self.device)).backward()
        nn.utils.clip_grad_norm_(state.module.parameters(), CLIP)
        state.optimizer.step()

    # What is asked of a model

    def fresh(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW; no decay of gains."""
        flat = [p for p in module.parameters() if p.ndim < 2]
        matrices = [p for p in module.parameters() if p.ndim >= 2]
        groups = [{"params": matrices}, {"params": flat, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.rate, betas=BETAS, weight_decay=WEIGHT_DECAY)

    def loss(self, module: nn.Module, tokens: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.size.bfloat16):
            logits = module(tokens[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def measure(self, state: State) -> None:
        state.module.eval()
        with torch.no_grad():
            parts = self.held_out.split(max(self.size.batch, 20))
            total = sum(float(self.loss(state.module, p)) * len(p) for p in parts)
        value = total / len(self.held_out)
        state.points.append([state.flops, state.step, value, state.cpu, state.wall])

    def cost(self, module: nn.Module) -> float:
        """FLOPs of one step, forward and backward, counted by torch."""
        time_, batch = self.size.shape.context, self.size.batch
        tokens = torch.zeros(batch, time_ + 1, dtype=torch.int64, device=self.device)
        return float(count(lambda: self.loss(module, tokens).backward(), module))


def count(step: Any, module: nn.Module) -> int:
    """torch's counter knows no fused attention on CPUs, so attention is computed in parts meanwhile."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def machine(device: torch.device) -> dict[str, Any]:
    """In general words; no names."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "meristem": version("meristem"),
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts
