"""Growth under Lightning: the network of a LightningModule is replaced between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import nn

import meristem
from meristem.integrations.calls import Caught
from meristem.integrations.growing import Grown, Way, grow, refuse_example, replay
from meristem.integrations.history import History
from meristem.integrations.watching import observe, refuse_needs, refuse_progress
from meristem.training import Progress, Schedule, checkpoint

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise meristem.RuntimeUnavailable(
            f"growth under Lightning needs lightning ({error}); pip install 'meristem[lightning]'"
        ) from error

Configured = Callable[[Any, Any], Any]


class LightningGrowth(Callback):  # type: ignore[misc]
    """A callback that grows the network of a LightningModule when a trigger fires.

        growth = LightningGrowth(Schedule([Stage({"mlp": "x2"}, AtStep(1000))]), module="net")
        Trainer(callbacks=[growth, ModelCheckpoint(...)]).fit(LitModel(), loader)

    ``module`` is where the network is in the LightningModule. Between two steps it is traced and grown, and
    takes its place with the optimizer and the scheduler; the loop, its data and its random numbers go on.
    Checkpoints hold the growths so far: ``fit(..., ckpt_path=...)`` with the small network repeats them.

    ``rebuild`` makes the larger network of the user's own class (``from_config``); without it the grown
    program is trained. ``example`` is a call of the network, by default its first one. Triggers get the
    loss of each step, or with ``watch`` a metric of the validation. ``new`` is what fresh entries of the
    optimizer's state hold; ``loss`` and ``models`` go to the methods of growth that need them.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        module: str = "model",
        rebuild: Any = None,
        example: Any = None,
        watch: str | None = None,
        new: str = "mean",
        loss: Any = None,
        models: tuple[Any, ...] = (),
    ) -> None:
        refuse_needs(schedule, ("step", "loss"))
        self.progress = Progress(schedule)
        self.way = Way(rebuild, new, loss, tuple(models))
        self.example = None if example is None else refuse_example(example)
        self.where, self.watch = module, watch
        self.history = History()
        self._caught: Caught | None = None
        self._step = -1

    @property
    def growths(self) -> list[dict[str, Any]]:
        """An entry for each growth: step, changes, parameters and FLOPs before and after (``History``)."""
        return self.history.log

    # -- what Lightning calls ------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Watch for a checkpoint that is to be loaded: its network must be there before its weights are."""
        if trainer.world_size > 1:
            raise meristem.MeristemError(
                "growth in the middle of a run of several processes would leave Lightning's wrapper with "
                "the old network; grow between runs, as in examples/train_distributed.py"
            )
        if not self.history.start:
            self.history = History.of(self._net(pl_module))
        before = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            del pl_module.on_load_checkpoint
            self._construct(pl_module, checkpoint, fitting=stage == "fit")
            before(checkpoint)

        pl_module.on_load_checkpoint = on_load_checkpoint

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for name in ("on_load_checkpoint", "configure_optimizers"):
            vars(pl_module).pop(name, None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step = trainer.global_step
        if self.example is None:
            self._caught = Caught(self._net(pl_module))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still gathered
        self._step = trainer.global_step
        if self._caught is not None and self._caught.example is not None:
            self.example, self._caught = self._caught.example, None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._ask(trainer, pl_module, None if self.watch else loss)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.watch and self.watch in trainer.callback_metrics and not trainer.sanity_checking:
            self._ask(trainer, pl_module, trainer.callback_metrics[self.watch])

    def state_dict(self) -> dict[str, Any]:
        example = None if self.example is None else [list(self.example[0]), self.example[1]]
        return {
            "history": self.history.to_data(),
            "progress": self.progress.state_dict(),
            "example": example,
            "random": checkpoint.random_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.progress.load_state_dict(state_dict["progress"])
        if state_dict["example"] is not None:
            self.example = (tuple(state_dict["example"][0]), dict(state_dict["example"][1]))
        checkpoint.set_random_state(state_dict["random"])  # Lightning does not keep them

    # -- growing -------------------------------------------------------------------------------------------

    def _ask(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        value = None if loss is None else float(loss)
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            return
        if observe(self.progress, step=trainer.global_step, loss=value):
            self._grow(trainer, pl_module)

    def _grow(self, trainer: Any, pl_module: Any) -> None:
        stage = self.progress.stage
        assert stage is not None
        if self.example is None:
            raise meristem.MeristemError(
                "no batch of at least 2 was seen to trace the network with; give example="
            )
        optimizer, config = _one(trainer.optimizers, trainer.lr_scheduler_configs)
        grown = grow(
            self._net(pl_module), optimizer, config and config.scheduler, self.history, stage.sizes,
            self.example, self.way, step=trainer.global_step, **stage.arguments,
        )  # fmt: skip
        self._put(pl_module, grown)
        trainer.optimizers = [grown.optimizer]
        if config is not None:
            config.scheduler = grown.scheduler
        self.progress.advance()
        before, after = self.growths[-1]["parameters"]
        said = {"growth": self.history.stage, "parameters_before": before, "parameters": after}
        flops = zip(("flops_before", "flops"), self.growths[-1]["flops"], strict=True)
        said |= {name: number for name, number in flops if number is not None}
        for logger in trainer.loggers:
            logger.log_metrics(said, step=trainer.global_step)

    def _construct(self, pl_module: Any, checkpoint: dict[str, Any], *, fitting: bool) -> None:
        """The network, and in training the optimizer, that a checkpoint is of."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is None:
            return  # trained without this callback so far
        history = History.from_data(state["history"])
        refuse_progress(self.progress, state["progress"])
        if self.history.stage == 0:
            history.refuse_other(self._net(pl_module))
            if history.stage:
                self._repeat(pl_module, history, state["example"], fitting=fitting)
        elif history.plans != self.history.plans or history.start != self.history.start:
            raise meristem.CarrierError(
                f"the checkpoint is of the network after {history.stage} growths, and this one has grown "
                f"{self.history.stage} times; construct the small network anew to load it"
            )
        self.history = history

    def _repeat(self, pl_module: Any, history: History, example: Any, *, fitting: bool) -> None:
        """The growths of a checkpoint, also on the optimizer, whose order of parameters they make."""
        optimizer = scheduler = put = None
        if fitting:
            optimizer, scheduler, put = _configured(pl_module.configure_optimizers())
        args, kwargs = example
        net = self._net(pl_module)
        grown = replay(history, net, optimizer, scheduler, (tuple(args), dict(kwargs)), self.way)
        self._put(pl_module, grown)
        if put is not None:
            configured = put(grown.optimizer, grown.scheduler)
            pl_module.configure_optimizers = lambda: configured

    def _net(self, pl_module: Any) -> nn.Module:
        try:
            net = attrgetter(self.where)(pl_module)
        except AttributeError:
            net = None
        if not isinstance(net, nn.Module):
            raise meristem.MeristemError(
                f"{type(pl_module).__name__} has no module {self.where!r}; say where its network is, as in "
                'LightningGrowth(..., module="net")'
            )
        return net

    def _put(self, pl_module: Any, grown: Grown) -> None:
        path, _, name = self.where.rpartition(".")
        setattr(attrgetter(path)(pl_module) if path else pl_module, name, grown.module)
        self.history = grown.history


def _one(optimizers: Sequence[Any], configs: Sequence[Any]) -> tuple[Any, Any]:
    if len(optimizers) != 1 or len(configs) > 1:
        raise meristem.MeristemError(
            f"growth carries one optimizer with at most one scheduler, and there are {len(optimizers)} "
            f"with {len(configs)}; put the parameters into groups of one optimizer"
        )
    return optimizers[0], configs[0] if configs else None


def _configured(what: Any) -> tuple[Any, Any, Configured]:
    """(optimizer, scheduler, how to say the same with others) of what ``configure_optimizers`` returned."""
    if isinstance(what, torch.optim.Optimizer):
        return what, None, lambda o, s: o
    if isinstance(what, dict):
        given = what.get("lr_scheduler")
        if isinstance(given, dict):
            return (
                what["optimizer"],
                given["scheduler"],
                lambda o, s: {**what, "optimizer": o, "lr_scheduler": {**given, "scheduler": s}},
            )
        changed = {} if given is None else {"lr_scheduler": None}
        return (
            what["optimizer"],
            given,
            lambda o, s: {**what, "optimizer": o, **dict.fromkeys(changed, s)},
        )
    if isinstance(what, (list, tuple)):
        if len(what) == 2 and isinstance(what[0], (list, tuple)):
            optimizers, schedulers = list(what[0]), list(what[1])
        else:
            optimizers, schedulers = list(what), []
        _one(optimizers, schedulers)
        if not isinstance(optimizers[0], torch.optim.Optimizer):
            return _configured(optimizers[0])
        given = schedulers[0] if schedulers else None
        if isinstance(given, dict):
            return (
                optimizers[0],
                given["scheduler"],
                lambda o, s: ([o], [{**given, "scheduler": s}]),
            )
        return optimizers[0], given, lambda o, s: ([o], [] if s is None else [s])
    raise meristem.MeristemError(
        f"configure_optimizers returned {type(what).__name__}, with which there is nothing to carry"
    )


__all__ = ["LightningGrowth"]
