"""What a training loop of one's own needs: grow, save, resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import meristem
from meristem.integrations.growing import Sizes, Way, grow, refuse_example, refuse_optimizer, replay
from meristem.integrations.history import History
from meristem.training import checkpoint


class Run:
    """The module, optimizer and scheduler of a loop, which grow and are saved together.

        run = Run(module, optimizer, scheduler, example=(tokens,))
        position = run.resume(folder)               # None at the first start
        ...
        run.save(folder, step, {"batch": step})
        run.grow({"mlp": "x2"}, step=step)          # run.module, run.optimizer, run.scheduler are new ones

    ``example`` is a batch of at least 2, as (args, kwargs), a tuple of arguments or a dict of keyword
    arguments. ``rebuild`` makes the larger module of the user's own class (``from_config``); without it
    the grown program is trained. ``new`` is what fresh entries of the optimizer's state hold. ``loss`` and
    ``models`` go to the methods of growth that need them. ``model`` is the last growth, for what else
    follows it: ``run.model.carry`` (averages), ``meristem.training.separate``.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        *,
        example: Any,
        rebuild: Any = None,
        new: str = "mean",
        loss: Any = None,
        models: tuple[Any, ...] = (),
    ) -> None:
        refuse_optimizer(module, optimizer)
        self.module, self.optimizer, self.scheduler = module, optimizer, scheduler
        self.example = refuse_example(example)
        self.way = Way(rebuild, new, loss, tuple(models))
        self.history = History.of(module)
        self.model: meristem.Model | None = None
        self.step = 0

    @property
    def stage(self) -> int:
        """How often the module has grown."""
        return self.history.stage

    @property
    def growths(self) -> list[dict[str, Any]]:
        """An entry for each growth: step, changes, parameters and FLOPs before and after (``History``)."""
        return self.history.log

    def grow(
        self, sizes: Sizes | meristem.Plan, *, step: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """Grow, and return the log's entry; options as of ``meristem.grow``.

        Raises what ``meristem.grow`` raises; then the run is as it was.
        """
        step = self.step if step is None else step
        now = (self.module, self.optimizer, self.scheduler)
        grown = grow(*now, self.history, sizes, self.example, self.way, step=step, **options)
        self._take(grown)
        return self.growths[-1]

    def save(
        self,
        folder: str | Path,
        step: int,
        position: Any = None,
        *,
        schedule: Mapping[str, Any] | None = None,
        keep: int | None = None,
    ) -> Path:
        """Write a checkpoint (``training.checkpoint.save``) with the growths so far.

        ``position`` is where the data is, ``schedule`` the state of the
        growth schedule (``training.Progress``), both plain data.
        """
        self.step = step
        data = {
            "history": self.history.to_data(),
            "position": position,
            "schedule": dict(schedule or {}),
        }
        tensors = {"example": [list(self.example[0]), self.example[1]]}
        now = (self.module, self.optimizer, self.scheduler)
        return checkpoint.save(folder, step, *now, data=data, tensors=tensors, keep=keep)

    def resume(self, source: str | Path) -> dict[str, Any] | None:
        """Go on from a checkpoint, or from the last complete one of a folder; None where there is none.

        The growths are repeated on the module that the run was constructed with, then everything is
        loaded. Returns {"step", "position", "schedule"}. Raises CarrierError where the checkpoint is of
        another model or optimizer; then nothing has changed.
        """
        saved = checkpoint.load(source)
        if saved is None:
            return None
        if self.stage:
            raise meristem.MeristemError(
                "the run has grown already; construct the small model and a Run anew, and resume that"
            )
        history = History.from_data(saved.data.get("history", {}))
        args, kwargs = saved.tensors["example"]
        example = (tuple(args), dict(kwargs))
        now = (self.module, self.optimizer, self.scheduler)
        grown = replay(history, *now, example, self.way)
        checkpoint.restore(saved, grown.module, grown.optimizer, grown.scheduler)
        self._take(grown)
        self.step = saved.step
        return {"step": saved.step, **{k: saved.data[k] for k in ("position", "schedule")}}

    def _take(self, grown: Any) -> None:
        self.module, self.optimizer, self.scheduler = grown.module, grown.optimizer, grown.scheduler
        self.history, self.model = grown.history, grown.model


__all__ = ["Run"]
