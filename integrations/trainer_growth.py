"""Growth under Hugging Face Trainer: it stops at a trigger and goes on with the larger model."""

from __future__ import annotations

import copy
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import meristem
from meristem.integrations.calls import Caught, as_called
from meristem.integrations.growing import Grown, Way, grow, refuse_example, replay
from meristem.integrations.history import History
from meristem.integrations.watching import observe, refuse_needs, refuse_progress
from meristem.training import Progress, Schedule

try:
    from transformers import Trainer, TrainerCallback, TrainerState
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise meristem.RuntimeUnavailable(
        f"growth under Trainer needs transformers and accelerate ({error}); pip install 'meristem[trainer]'"
    ) from error

STATE, EXAMPLE = "trainer_state.json", "growth_example.pt"
# What a Trainer measures of itself; tokens only with include_num_input_tokens_seen.
SEEN = ("step", "tokens", "loss")


class TrainerGrowth(TrainerCallback, ExportableState):
    """A callback that grows the model of a Trainer, and the loop around ``Trainer.train`` that this takes.

        growth = TrainerGrowth(Schedule([Stage({"mlp": "x2"}, AtStep(1000))]))
        trainer = Trainer(model, args, train_dataset=..., callbacks=[growth])
        growth.train(trainer)                               # in place of trainer.train()
        growth.train(trainer, resume_from_checkpoint=True)  # after a crash, with the small model again

    When a trigger fires the Trainer saves a checkpoint and stops; the model is traced, grown, and the
    Trainer resumes with it at the next step: optimizer, scheduler, random numbers and the position in the
    data go on. A checkpoint holds the growths so far, so that it is resumed from the small model.

    ``rebuild`` makes the larger module of the user's own class (``from_config``), and the checkpoints are
    its ``save_pretrained``; without it the grown program is trained. ``example`` is a batch that the model
    is called with; by default the first one of training. ``watch`` is the logged value that triggers get as
    ``loss`` ("eval_loss"). ``new`` is what fresh entries of the optimizer's state hold; ``loss`` and
    ``models`` go to the methods of growth that need them.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        rebuild: Any = None,
        example: Any = None,
        watch: str = "loss",
        new: str = "mean",
        loss: Any = None,
        models: tuple[Any, ...] = (),
    ) -> None:
        refuse_needs(schedule, SEEN)
        self.progress = Progress(schedule)
        self.way = Way(rebuild, new, loss, tuple(models))
        self.example = None if example is None else refuse_example(example)
        self.watch = watch
        self.history = History()
        self._trainer: Any = None
        self._caught: Caught | None = None
        self._waiting = self._only_load = False
        self._interim: Path | None = None
        self._announce: list[dict[str, Any]] = []

    @property
    def growths(self) -> list[dict[str, Any]]:
        """An entry for each growth: step, changes, parameters and FLOPs before and after (``History``)."""
        return self.history.log

    # -- the loop around Trainer.train ---------------------------------------------------------------------

    def train(
        self, trainer: Trainer, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """``trainer.train`` with growth; returns what its last part returned.

        ``resume_from_checkpoint=True`` takes the last complete checkpoint, and starts anew where there is
        none. The model is the small one then. Raises MeristemError where the Trainer is one that cannot
        grow, or the checkpoint is of another model or other stages.
        """
        self._refuse(trainer)
        self._trainer = trainer
        self.history = History.of(trainer.model)
        if trainer.args.should_save:
            for left in Path(trainer.args.output_dir).glob(".grown-*"):  # by a run that died
                shutil.rmtree(left, ignore_errors=True)
        path = resume_from_checkpoint or None
        if path is True:
            path = last_complete(trainer.args.output_dir)
        best = trainer.args.load_best_model_at_end
        small = copy.deepcopy(trainer.model) if best else None
        trainer.args.load_best_model_at_end = False  # the weights of a stop must not be replaced
        limit = trainer.args.save_total_limit
        try:
            if path is not None:
                self._construct(trainer, Path(path))
            if self.progress.due and path is not None:
                path = self._load_and_grow(trainer, Path(path))
            while True:
                output = trainer.train(resume_from_checkpoint=path and str(path), **kwargs)
                trainer.args.save_total_limit = limit
                if not self._waiting:
                    break
                self._waiting = False
                path = self._grow(trainer, _folder(trainer.args, trainer.state))
        finally:
            trainer.args.load_best_model_at_end = best
            trainer.args.save_total_limit = limit
            self._drop_interim()
        if small is not None and trainer.state.best_model_checkpoint is not None:
            self._load_best(trainer, small)
        return output

    def _refuse(self, trainer: Any) -> None:
        args = trainer.args
        reasons = {
            "this callback is not one of the Trainer's; pass it in callbacks=[...]": (
                self not in trainer.callback_handler.callbacks
            ),
            "this callback has been through a run; make a new one, and the small model": (
                self.history.stage > 0
            ),
            "model_init makes the model anew; pass model=": trainer.model_init is not None,
            "growth under FSDP or DeepSpeed is done between runs, on the full state dict; see "
            "examples/train_distributed.py": trainer.is_fsdp_enabled
            or trainer.is_deepspeed_enabled,
            "DataParallel copies the model at each step; start one process for each device": (
                args.n_gpu > 1
            ),
            "save_only_model=True leaves out the optimizer, without which no growth can be resumed": (
                args.save_only_model
            ),
            'save_strategy="best" would not save the checkpoint that a growth starts from; take "steps"': (
                str(getattr(args.save_strategy, "value", args.save_strategy)) == "best"
            ),
            "restore_callback_states_from_checkpoint=True makes callbacks anew; this one restores itself": (
                args.restore_callback_states_from_checkpoint
            ),
        }
        for reason, true in reasons.items():
            if true:
                raise meristem.MeristemError(f"this Trainer cannot grow: {reason}")

    def _construct(self, trainer: Any, path: Path) -> None:
        """The model, optimizer and scheduler that a checkpoint is of, from the small model."""
        saved = _read(path).get("stateful_callbacks", {}).get(type(self).__name__)
        if saved is None:
            return  # trained without this callback so far
        history = History.from_data(saved["history"])
        history.refuse_other(trainer.model)
        refuse_progress(self.progress, saved["progress"])
        found = next((p for p in (path / EXAMPLE, path.parent / EXAMPLE) if p.is_file()), None)
        if self.example is None and found is not None:
            args, kwargs = torch.load(found, map_location="cpu", weights_only=True)
            self.example = (tuple(args), dict(kwargs))
        if history.stage:
            if self.example is None:
                raise meristem.MeristemError(
                    f"{path} holds no batch to repeat its growths with ({EXAMPLE}); give example="
                )
            if trainer.optimizer is None:
                trainer.create_optimizer()
            now = (trainer.model, _plain(trainer.optimizer), trainer.lr_scheduler)
            self._put(trainer, replay(history, *now, self.example, self.way))
        self.progress.load_state_dict(saved["progress"])
        self.history = history

    def _load_and_grow(self, trainer: Any, path: Path) -> Path:
        """A run that died while it grew: load the checkpoint that it grew from, and grow."""
        self._only_load = True
        try:
            trainer.train(resume_from_checkpoint=str(path))
        except _Loaded:
            pass
        finally:
            self._only_load = False
        return self._grow(trainer, path)

    def _grow(self, trainer: Any, path: Path) -> Path:
        """Grow what the Trainer has; a folder from which it can resume.

        The checkpoint at ``path`` stays as it is, with its growth due: a run that dies before the next one
        grows again. The folder is none of the Trainer's checkpoints, and is gone after the next step.
        """
        stage = self.progress.stage
        if stage is None or self.example is None:
            raise meristem.MeristemError(
                "no batch of at least 2 was seen to trace the model with; give example="
            )
        now = (trainer.model, _plain(trainer.optimizer), trainer.lr_scheduler)
        step = trainer.state.global_step
        grown = grow(
            *now, self.history, stage.sizes, self.example, self.way, step=step, **stage.arguments
        )
        self._put(trainer, grown)
        self.progress.advance()
        self._announce.append(self.growths[-1])
        folder = Path(trainer.args.output_dir) / f".grown-{step}"
        if trainer.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            trainer.save_model(str(folder), _internal_call=True)
            torch.save(grown.optimizer.state_dict(), folder / "optimizer.pt")
            torch.save(grown.scheduler.state_dict(), folder / "scheduler.pt")
            for file in (path / STATE, *path.glob("rng_state*.pth"), *path.glob("scaler.pt")):
                shutil.copy(file, folder)
        trainer.accelerator.wait_for_everyone()
        self._interim = folder
        return folder

    def _put(self, trainer: Any, grown: Grown) -> None:
        module = grown.module
        if self.way.rebuild is None:
            as_called(module, drop=("num_items_in_batch",))
            # The program's loss is the mean of its batch: the Trainer divides by the accumulation steps.
            trainer.model_accepts_loss_kwargs = False
        trainer.model = trainer.model_wrapped = module
        trainer.optimizer, trainer.lr_scheduler = grown.optimizer, grown.scheduler
        self.history = grown.history

    def _load_best(self, trainer: Any, small: nn.Module) -> None:
        """The best checkpoint, which may be of a smaller model than the last."""
        saved = _read(Path(trainer.state.best_model_checkpoint))["stateful_callbacks"]
        own = saved.get(type(self).__name__)  # none where this callback came later
        history = History.of(small) if own is None else History.from_data(own["history"])
        if history.stage != self.history.stage:
            small.to(next(trainer.model.parameters()).device)
            if history.stage:
                assert self.example is not None
                self._put(trainer, replay(history, small, None, None, self.example, self.way))
            else:
                trainer.model = trainer.model_wrapped = small
                self.history = history
            trainer.optimizer = trainer.lr_scheduler = None  # they were those of the last model
        trainer._load_best_model()

    # -- what Trainer calls --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What goes into the checkpoint's ``trainer_state.json``."""
        return {"history": self.history.to_data(), "progress": self.progress.state_dict()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer is None:
            raise meristem.MeristemError(
                "a Trainer cannot change its model while it trains: call growth.train(trainer) in place of "
                "trainer.train()"
            )
        state.stateful_callbacks[type(self).__name__] = self.state()
        if self._only_load:
            raise _Loaded
        if self.example is None:
            self._caught = Caught(self._trainer.model, drop=("num_items_in_batch",))
        while self._announce:
            self._trainer.log(_numbers(self._announce.pop(0), self.history.stage))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._drop_interim()
        if self._caught is not None and self._caught.example is not None:
            self.example, self._caught = self._caught.example, None
            if args.should_save:  # before any checkpoint that needs it
                self._write_example(Path(args.output_dir))
        if "loss" not in self.progress.needs:
            self._ask(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        training = self._trainer is not None and self._trainer.is_in_train
        if training and "loss" in self.progress.needs and self.watch in logs:
            self._ask(state, control, loss=logs[self.watch])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._waiting and not _at_end_of_epoch(state):
            # The loop leaves its epoch, which goes on after the growth.
            control.should_log = control.should_evaluate = control.should_save = False
        if self._waiting and args.save_total_limit == 1:
            args.save_total_limit = 2  # else the best checkpoint alone is kept, and not this one

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.example is not None and args.should_save:
            self._write_example(_folder(args, state))

    def _write_example(self, folder: Path) -> None:
        assert self.example is not None
        torch.save([list(self.example[0]), self.example[1]], folder / f"{EXAMPLE}.part")
        os.replace(folder / f"{EXAMPLE}.part", folder / EXAMPLE)

    def _ask(self, state: Any, control: Any, loss: float | None = None) -> None:
        tokens = state.num_input_tokens_seen or None
        if self._waiting or state.global_step >= state.max_steps:
            return
        if observe(self.progress, step=state.global_step, tokens=tokens, loss=loss):
            self._waiting = True
            control.should_save = control.should_training_stop = True

    def _drop_interim(self) -> None:
        if self._interim is not None and self._trainer.args.should_save:
            shutil.rmtree(self._interim, ignore_errors=True)
        self._interim = None


class _Loaded(Exception):
    """Everything is loaded, and nothing is to be trained yet."""


def last_complete(folder: str | Path) -> str | None:
    """The last checkpoint of a Trainer that was written to its end, or None.

    The state is what a Trainer writes last; a checkpoint without it, or with a part of it, is of a process
    that died.
    """
    found = [p for p in Path(folder).glob("checkpoint-*") if p.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda p: int(p.name.split("-")[-1]), reverse=True):
        try:
            _read(path)
        except meristem.CarrierError:
            continue
        return str(path)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return asdict(TrainerState.load_from_json(str(path / STATE)))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise meristem.CarrierError(
            f"{path} is no complete checkpoint of a Trainer: {error}", path=str(path)
        ) from error


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _plain(optimizer: Any) -> Any:
    """The optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _at_end_of_epoch(state: Any) -> bool:
    return float(state.epoch or 0.0).is_integer()


def _numbers(entry: dict[str, Any], stage: int) -> dict[str, float]:
    """A growth as Trainer logs: flat, numbers alone."""
    before, after = entry["parameters"]
    names = ("growth/flops_before", "growth/flops")
    flops = {n: f for n, f in zip(names, entry["flops"], strict=True) if f is not None}
    sizes = {f"growth/{name}": change[1] for name, change in entry["changes"].items()}
    return {
        "growth": stage,
        "growth/parameters_before": before,
        "growth/parameters": after,
        "growth/seconds": round(entry["seconds"], 3),
        **flops,
        **sizes,
    }


__all__ = ["TrainerGrowth", "last_complete"]
