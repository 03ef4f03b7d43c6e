"""Growth under Lightning: between two steps; every checkpoint is resumed exactly."""

import logging
import warnings

import lightning.pytorch as current
import pytest
import pytorch_lightning as former
import torch
from torch.utils.data import DataLoader

import meristem
from meristem.integrations import LightningGrowth, from_config
from meristem.training import ActivationRank, AtStep, Plateau, Schedule, Stage
from tests.integrations.models import Config, Tagger, examples, tagger

EPOCHS, BATCHES = 3, 5


@pytest.fixture(autouse=True)
def quiet():
    """Lightning's advice on workers, loggers and folders."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def once():
    return Schedule([Stage({"mlp": "x2"}, AtStep(7))])


def lit(package, net):
    class Lit(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = net, []

        def training_step(self, batch, index):
            loss = self.net(**batch)["loss"]
            self.losses.append(loss.item())
            return loss

        def test_step(self, batch, index):
            return self.net(**batch)["loss"]

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-2)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * BATCHES)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    return Lit()


def fit(folder, growth, *, package=current, net=None, module=None, checkpoint=None, **arguments):
    package.seed_everything(0, verbose=False)
    callbacks = [growth, package.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)]
    trainer = package.Trainer(
        **{"max_epochs": EPOCHS, "callbacks": callbacks, **arguments}, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = module or lit(package, net or tagger())
    trainer.fit(module, DataLoader(examples(20), batch_size=4), ckpt_path=checkpoint)
    return module, trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        growth = LightningGrowth(once(), module="net")
        module, trainer = fit(folder, growth)
    return folder, module, growth, trainer


def test_it_grows_between_two_steps(undisturbed):
    _, module, growth, trainer = undisturbed
    assert trainer.global_step == len(module.losses) == EPOCHS * BATCHES
    (told,) = growth.growths
    assert told["step"] == 7
    assert 0 < told["flops"][0] < told["flops"][1]
    assert told["parameters"][1] == sum(p.numel() for p in module.net.parameters())
    assert trainer.optimizers[0].param_groups[0]["params"][0] is next(module.net.parameters())
    assert trainer.lr_scheduler_configs[0].scheduler.optimizer is trainer.optimizers[0]
    steps = {int(s["step"]) for s in trainer.optimizers[0].state.values()}
    assert steps == {EPOCHS * BATCHES}


@pytest.mark.parametrize("epoch", [1, pytest.param(0, marks=pytest.mark.full)])
def test_a_checkpoint_is_resumed_with_the_small_network(undisturbed, tmp_path, epoch):
    """After the growth (of epoch 1), and before it: every loss is the same to the last bit."""
    folder, module, *_ = undisturbed
    growth = LightningGrowth(once(), module="net")
    again, _ = fit(tmp_path, growth, net=tagger(seed=4), checkpoint=folder / f"epoch={epoch}.ckpt")
    assert again.losses == module.losses[BATCHES * (epoch + 1) :]
    assert len(growth.growths) == 1
    assert "configure_optimizers" not in vars(again)


@pytest.mark.full
def test_the_former_package_and_the_own_class(tmp_path):
    schedule = Schedule([Stage({"mlp": "x2", "layers": 3}, AtStep(4))])
    rebuild = from_config(mlp="mlp", layers="layers")
    growth = LightningGrowth(schedule, module="net", rebuild=rebuild)
    module, _ = fit(tmp_path, growth, package=former)
    assert isinstance(module.net, Tagger)
    assert vars(module.net.config) == vars(Config(mlp=12, layers=3))
    growth = LightningGrowth(schedule, module="net", rebuild=rebuild)
    again, _ = fit(tmp_path, growth, package=former, checkpoint=tmp_path / "epoch=1.ckpt")
    assert again.losses == module.losses[2 * BATCHES :]


@pytest.mark.full
def test_the_loss_of_each_step_is_watched(tmp_path):
    growth = LightningGrowth(
        Schedule([Stage({"mlp": 8}, Plateau(patience=3, tolerance=0.9))]), module="net"
    )
    fit(tmp_path, growth)
    assert [e["step"] for e in growth.growths] == [4]


def test_what_cannot_grow_is_refused(undisturbed, tmp_path):
    folder, module, _, trainer = undisturbed
    with pytest.raises(meristem.MeristemError, match="no module 'model'"):
        fit(tmp_path, LightningGrowth(once()))
    with pytest.raises(meristem.MeristemError, match="activations"):
        LightningGrowth(Schedule([Stage({"mlp": 8}, ActivationRank())]))
    with pytest.raises(meristem.CarrierError, match="another model"):
        fit(tmp_path, LightningGrowth(once(), module="net"), net=tagger(hidden=10),
            checkpoint=folder / "epoch=1.ckpt")  # fmt: skip
    with pytest.raises(
        meristem.CarrierError, match="after 0 growths, and this one has grown 1 times"
    ):
        trainer.test(
            module, DataLoader(examples(4), batch_size=4), ckpt_path=folder / "epoch=0.ckpt"
        )
    with pytest.raises(meristem.MeristemError, match="one optimizer with at most one scheduler"):
        fit(tmp_path, LightningGrowth(once(), module="net"), module=Two(tagger()))


class Two(current.LightningModule):
    """An optimizer for each of two parts."""

    def __init__(self, net):
        super().__init__()
        self.net, self.automatic_optimization = net, False

    def training_step(self, batch, index):
        loss = self.net(**batch)["loss"]
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [
            torch.optim.SGD(p, lr=0.1)
            for p in (self.net.embed.parameters(), self.net.head.parameters())
        ]
