"""A plain loop: growth, checkpoints, resumption; what does not fit is refused, and nothing has changed."""

import json
import subprocess
import sys

import pytest
import torch

import meristem
from meristem.integrations import History, Run, from_config, rebuilding
from meristem.training import carry_scheduler, count_step, separate
from meristem.verify import numeric
from tests.house.tree import ROOT
from tests.integrations.models import Config, Tagger, examples, tagger

BATCH = torch.utils.data.default_collate(examples(4))


def made(seed=0, *, rebuild=None, kind=torch.optim.AdamW, **sizes):
    module = tagger(seed, **sizes)
    optimizer = kind(module.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return Run(module, optimizer, scheduler, example=BATCH, rebuild=rebuild)


def steps(run, count):
    run.module.train()
    for _ in range(count):
        loss = run.module(**BATCH)["loss"]
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.scheduler.step()
        run.step += 1
    return loss.item()


def state(run):
    tensors = [*run.module.state_dict().values()]
    tensors += [t for s in run.optimizer.state.values() for t in s.values()]
    return [t.clone() for t in tensors], run.module, run.optimizer, run.scheduler, run.stage


def same(before, after):
    return all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)) and all(
        a is b for a, b in zip(before[1:], after[1:], strict=True)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with checkpoints before and after a growth, and where the run ended."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    run = made()
    steps(run, 3)
    run.save(folder, run.step, {"line": 3})
    before = torch.get_rng_state()
    run.grow({"mlp": "x2"})
    assert torch.equal(before, torch.get_rng_state())
    run.save(folder, run.step, {"line": 3}, schedule={"index": 1})
    return folder, run, steps(run, 3)


def test_a_grown_run_is_resumed_from_the_small_model(trained):
    folder, run, last = trained
    again = made(seed=7)
    assert again.resume(folder) == {"step": 3, "position": {"line": 3}, "schedule": {"index": 1}}
    assert again.stage == 1
    assert steps(again, 3) == last
    assert again.scheduler.get_last_lr() == run.scheduler.get_last_lr()
    assert again.growths == run.growths
    assert run.growths[0]["parameters"] == [444, 648]
    assert made().resume(folder / "nothing") is None


@pytest.mark.full
def test_a_run_is_resumed_before_its_growth(trained):
    folder, _, last = trained
    again = made(seed=7)
    again.resume(folder / "step-3")
    assert again.stage == 0
    again.grow({"mlp": "x2"})
    assert steps(again, 3) == last


@pytest.mark.full
@pytest.mark.parametrize("zero", [True, False])
def test_growths_are_repeated_on_other_values(tmp_path, zero):
    """A fresh model may hold zeros where the trained one has none, and the other way round."""

    def start(zero):
        run = made()
        for name, p in run.module.named_parameters():
            if zero and ("bias" in name or "down" in name):
                torch.nn.init.zeros_(p)
        return run

    run = start(zero)
    steps(run, 2)
    run.grow({"mlp": 12, "hidden": 16, "layers": 3})
    run.save(tmp_path, run.step)
    last = steps(run, 2)
    again = start(not zero)
    again.resume(tmp_path)
    assert steps(again, 2) == last


@pytest.mark.full
@pytest.mark.parametrize("method", ["gradmax", "learned"])
def test_a_growth_that_a_loss_decided_is_repeated_from_its_plan(tmp_path, method):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def start():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        return Run(module, optimizer, example=(x,), loss=loss)

    def loss(module):
        return (module(x) - x.prod(1, keepdim=True)).square().mean()

    def train(run):
        for _ in range(2):
            run.optimizer.zero_grad()
            value = loss(run.module)
            value.backward()
            run.optimizer.step()
        return value.item()

    run = start()
    train(run)
    run.grow({"mlp": 8}, method=method)
    run.save(tmp_path, 2)
    last = train(run)
    again = start()
    again.resume(tmp_path)
    assert train(again) == last


def test_a_loss_and_models_go_to_the_methods_that_use_them(tmp_path):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))

    def net(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))

    def loss(module):
        return (module(x) - x.prod(1, keepdim=True)).square().mean()

    def start():
        module = net(0)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        others = [meristem.trace(net(1), (x,))]
        return Run(module, optimizer, example=(x,), loss=loss, models=others)

    run = start()
    run.grow({"mlp": 12}, method="fuse")
    run.grow({"mlp": 14})
    run.grow({"mlp": 16}, method="gradmax")
    assert [e["method"] for e in run.growths] == ["fuse", "preserve", "gradmax"]
    run.save(tmp_path, 0)
    again = start()
    again.resume(tmp_path)
    for a, b in zip(run.module.parameters(), again.module.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(meristem.MeristemError, match="loss= is for"):
        run.grow({"mlp": 18}, loss=loss)
    plan = meristem.plan(meristem.trace(net(0), (x,)), {"mlp": 8}, method="gradmax", loss=loss)
    once = start()
    once.grow(plan)
    assert once.growths[0]["method"] == "gradmax"


@pytest.mark.full
def test_the_own_class_takes_over(tmp_path):
    rebuild = from_config(mlp="mlp", layers="layers")
    run = made(rebuild=rebuild)
    steps(run, 2)
    run.module.embed.weight.requires_grad_(False)
    run.grow({"mlp": 8, "layers": 3})
    assert isinstance(run.module, Tagger)
    assert vars(run.module.config) == vars(Config(mlp=8, layers=3))
    assert not run.module.embed.weight.requires_grad
    with pytest.raises(meristem.CarrierError, match="no field of the config is named"):
        run.grow({"hidden": 12})
    run.way = type(run.way)(rebuild=lambda module, plan: Tagger(Config(mlp=9, layers=3)))
    before = state(run)
    with pytest.raises(meristem.CarrierError, match="other weights than the plan"):
        run.grow({"mlp": 10})
    scaled = type(
        "Scaled", (Tagger,), {"forward": lambda self, **b: Tagger.forward(self, **b)["logits"] * 2}
    )
    run.way = type(run.way)(rebuild=lambda module, plan: scaled(Config(mlp=10, layers=3)))
    with pytest.raises(meristem.NotPreserved):
        run.grow({"mlp": 10})
    assert same(before, state(run))


def test_an_optimizer_of_another_model_is_refused():
    other = torch.optim.SGD(tagger().parameters(), lr=0.1)
    with pytest.raises(meristem.CarrierError, match="not of this module"):
        Run(tagger(), other, example=BATCH)
    run = made()
    run.optimizer = other
    before = state(run)
    with pytest.raises(meristem.CarrierError, match="not of this module"):
        run.grow({"mlp": "x2"})
    assert same(before, state(run))
    with pytest.raises(meristem.MeristemError, match="no call of the module"):
        Run(tagger(), example=3)


def test_the_log_has_the_flops_of_a_step():
    """Of the example, as torch counts them with the loop's own loss; each module is run once for it."""
    run, calls = made(), []
    before = count_step(run.module, lambda m: m(**BATCH)["loss"]).flops
    run.grow({"mlp": "x2"})
    middle = count_step(run.module, lambda m: m(**BATCH)["loss"]).flops
    assert run.growths[0]["flops"] == [before, middle]
    assert run.growths[0]["uncounted"] == []
    run.module.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    run.grow({"mlp": 14})
    assert run.growths[1]["flops"][0] == middle < run.growths[1]["flops"][1]
    assert True not in calls
    assert all(p.grad is None for p in run.module.parameters())


def test_what_cannot_be_counted_is_said():
    frozen = tagger().requires_grad_(False)
    run = Run(frozen, example=BATCH)
    entry = run.grow({"mlp": 8})
    assert entry["flops"] == [None, None]
    assert entry["uncounted"] == ["no output depends on a parameter that is trained"]


def test_a_batch_of_one_is_no_example():
    one = torch.utils.data.default_collate(examples(1))
    with pytest.raises(meristem.MeristemError, match=r"a batch of one.*\(1, 5\).*at least 2"):
        Run(tagger(), example=one)
    # A table that is broadcast, a scalar, or a module that takes no batch.
    Run(tagger(), example={**BATCH, "labels": BATCH["labels"][:1]})
    Run(tagger(), example=(torch.tensor(3.0), torch.randn(5)))


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    folder, *_ = trained
    for run, match in (
        (made(hidden=10), "of another model"),
        (made(kind=torch.optim.SGD), "AdamW as its optimizer, not of SGD"),
    ):
        before = state(run)
        with pytest.raises(meristem.CarrierError, match=match):
            run.resume(folder / "step-3")
        assert same(before, state(run))
    with pytest.raises(meristem.CarrierError, match="no history"):
        History.from_data({"growths": 3})


@pytest.mark.full
def test_a_plan_that_does_not_fit_is_refused(trained):
    folder, grown, _ = trained
    run = made(mlp=7)
    steps(run, 1)
    before = state(run)
    plan = meristem.Plan.from_json(grown.history.plans[0])
    with pytest.raises(meristem.CarrierError, match="does not fit"):
        run.grow(plan)
    with pytest.raises(meristem.SizeError):
        run.grow({"mlp": 5})
    assert same(before, state(run))
    with pytest.raises(meristem.MeristemError, match="has grown already"):
        grown.resume(folder)


@pytest.mark.full
def test_runs_that_are_killed_end_as_the_undisturbed_one(tmp_path):
    """SIGKILL at ten random moments around the growths; the moments are drawn from a fixed seed."""
    script, example = ROOT / "tests/integrations/killed.py", ROOT / "examples/train_plain.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, example, tmp_path, "10", "1"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["growths"] == 2
    assert len(out["kills"]) == 10
    for kill in out["kills"]:
        assert kill["killed"], kill
        assert kill["resumed"].startswith("resumed at step"), kill
        assert abs(kill["loss"] - out["undisturbed"]) < 1e-6, kill
    # Some died while they grew, some after it.
    assert {k["last"].startswith("growing") for k in out["kills"]} == {True, False}


def test_what_else_follows_a_growth():
    run = made()
    steps(run, 1)
    average = torch.optim.swa_utils.AveragedModel(run.module)
    assert run.model is None
    run.grow({"mlp": "+4"})
    carried = run.model.carry(average.module.state_dict())
    assert {n: t.shape for n, t in carried.items()} == {
        n: t.shape for n, t in run.module.state_dict().items()
    }
    separate(run.model, run.module, run.optimizer, lr=0.5)
    run.scheduler = carry_scheduler(run.scheduler, run.optimizer)
    steps(run, 1)
    assert [g["lr"] > 0.1 for g in run.optimizer.param_groups] == [False, True]


def test_a_rebuilt_module_is_held_to_the_limits_of_verification():
    assert (rebuilding.FACTOR, rebuilding.ROUNDINGS) == (
        numeric.DEPLOYMENT_FACTOR,
        numeric.DEPLOYMENT_FLOOR,
    )
