"""New entries in groups of their own, schedulers that follow, averages that grow."""

import copy

import pytest
import torch
from torch.optim import lr_scheduler

import meristem
from meristem.rewrite.errors import MeristemError
from meristem.training import carry_average, carry_scheduler, separate
from tests.training.nets import NETS, step


@pytest.fixture(scope="module")
def run():
    """A decoder after three steps, its optimizer, and a growth of every kind."""
    net, x, loss = NETS["decoder"]()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(3):
        step(net, optimizer, loss)
    sizes = {"layers": 3, "hidden": 16, "mlp": 24}
    return net, loss, optimizer, meristem.grow(meristem.trace(net, (x,)), sizes)


@pytest.mark.parametrize("new", ["mean", "zero"])
def test_split_weights_train_as_whole_ones_do(run, new):
    """With the same settings, and step counts where there are moments, splitting changes nothing."""
    _, loss, optimizer, grown = run
    whole, parted = grown.module(), grown.module()
    plain = grown.optimizer(optimizer, new=new, module=whole)
    other = grown.optimizer(optimizer, new=new, module=parted)
    names = list(dict(parted.named_parameters(remove_duplicate=False)))
    split = separate(grown, parted, other)
    assert len(other.param_groups) == 2
    assert split.groups == [1]
    fresh = sum(p.numel() for p in other.param_groups[1]["params"])
    assert fresh == sum(p.numel() for p in whole.parameters()) - sum(
        p.numel() for p in optimizer.param_groups[0]["params"]
    )
    if new == "mean":
        for _ in range(2):
            assert step(whole, plain, loss) == pytest.approx(step(parted, other, loss), abs=1e-12)
    else:  # what has no past counts its steps from zero: its first step is no larger than the rate
        moved = {p: p.detach().clone() for p in other.param_groups[1]["params"]}
        step(parted, other, loss)
        largest = max(float((p.detach() - w).abs().max()) for p, w in moved.items())
        assert largest < 1.02e-2
        for state in plain.state.values():
            state["step"].fill_(1000)
        before = {n: p.detach().clone() for n, p in whole.named_parameters()}
        step(whole, plain, loss)
        largest = max(
            float((p.detach() - before[n]).abs().max()) for n, p in whole.named_parameters()
        )
        assert largest > 2e-2, "late in a run, in a whole weight, it is larger"
    held = float(loss(parted).detach())
    split.fuse()
    assert float(loss(parted).detach()) == held
    assert len(other.param_groups) == 1
    assert list(dict(parted.named_parameters(remove_duplicate=False))) == names
    assert parted.get_parameter("head.weight") is parted.get_parameter("embed.weight")
    if new == "mean":
        assert step(whole, plain, loss) == pytest.approx(step(parted, other, loss), abs=1e-12)
        for n, p in whole.named_parameters():
            torch.testing.assert_close(parted.get_parameter(n), p, rtol=0, atol=1e-12)


def test_moments_that_counted_otherwise_give_the_same_update_when_fused(run):
    """The next step of a fused weight is that of its parts."""
    _, loss, optimizer, grown = run
    parted = grown.module()
    other = grown.optimizer(optimizer, new="zero", module=parted)
    split = separate(grown, parted, other)
    for _ in range(2):
        step(parted, other, loss)
    rates = [g["lr"] for g in other.param_groups]
    assert rates == [1e-2, 1e-2]
    loss(parted).backward()
    gradient = {}
    for s in split.splits:
        new, state = s.new, other.state[s.new]
        m, v, t = state["exp_avg"], state["exp_avg_sq"], float(state["step"])
        gradient[s.name] = (
            (m / (1 - 0.9**t)) / (v / (1 - 0.999**t)).sqrt().clamp_min(1e-30),
            new.shape,
        )
    parts = {s.name: s.parts for s in split.splits}
    split.fuse()
    for name, (expected, shape) in gradient.items():
        state = other.state[parted.get_parameter(name)]
        m, v = (parts[name].right_inverse(state[k])[1] for k in ("exp_avg", "exp_avg_sq"))
        t = float(state["step"])
        found = (m / (1 - 0.9**t)) / (v / (1 - 0.999**t)).sqrt().clamp_min(1e-30)
        assert found.shape == shape
        torch.testing.assert_close(found, expected)


def test_new_entries_have_settings_of_their_own(run):
    _, loss, optimizer, grown = run
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    split = separate(grown, larger, after, lr=0.0, weight_decay=0.0)
    up = larger.get_submodule("layers.0.up")
    before = up.weight.detach().clone()
    last = larger.get_parameter("layers.2.up.weight").detach().clone()
    step(larger, after, loss)
    moved = (up.weight.detach() - before).abs()
    assert moved[:20, :12].all()
    assert not moved[20:].any()
    assert not moved[:, 12:].any()
    assert torch.equal(larger.get_parameter("layers.2.up.weight").detach(), last)
    with pytest.raises(MeristemError, match="fuse them first"):
        separate(grown, larger, after)
    split.fuse()
    with pytest.raises(MeristemError, match="AdamW has no setting momentum"):
        separate(grown, larger, after, momentum=0.9)
    muon = torch.optim.Muon([larger.get_parameter("layers.0.up.weight")])
    with pytest.raises(MeristemError, match="two of its axes"):
        separate(grown, larger, muon)
    factored = torch.optim.Adafactor(larger.parameters())
    with pytest.raises(MeristemError, match="col_var and row_var of whole matrices"):
        separate(grown, larger, factored)


@pytest.mark.full
def test_growth_in_stages_is_not_split():
    net, x, _ = NETS["decoder"]()
    optimizer = torch.optim.AdamW(net.parameters())
    sizes = {"layers": 3, "experts": 4}
    grown = meristem.grow(meristem.trace(net, (x,)), sizes, method="upcycle:top=2")
    larger = grown.module()
    with pytest.raises(MeristemError, match="in 2 stages"):
        separate(grown, larger, grown.optimizer(optimizer, module=larger))


SCHEDULERS = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "function": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=4, cycle_momentum=False),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.CosineAnnealingLR(o, 9)], [4]
    ),
    "chain": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_schedulers_go_on(run, name, steps):
    _, _, optimizer, grown = run
    optimizer = copy.deepcopy(optimizer)
    live = dict(
        zip(optimizer.param_groups[0]["params"], run[2].param_groups[0]["params"], strict=True)
    )
    optimizer.param_groups[0]["params"] = list(live.values())
    optimizer.state.update({live[p]: optimizer.state.pop(p) for p in list(optimizer.state)})
    scheduler = SCHEDULERS[name](optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    split = separate(grown, larger, after)
    follower = carry_scheduler(scheduler, after)
    assert follower.optimizer is after
    for _ in range(3):
        optimizer.step()
        scheduler.step()
        after.step()
        follower.step()
        rates = [g["lr"] for g in after.param_groups]
        assert rates == [optimizer.param_groups[0]["lr"]] * 2
    split.fuse()
    again = carry_scheduler(follower, after)
    after.step()
    again.step()
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in after.param_groups] == [optimizer.param_groups[0]["lr"]]


def test_a_plateau_and_another_rate_for_new_entries(run):
    _, _, optimizer, grown = run
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    separate(grown, larger, after, lr=2e-2)
    follower = carry_scheduler(plateau, after)
    for loss in (1.0, 2.0):
        follower.step(loss)
    assert [g["lr"] for g in after.param_groups] == pytest.approx([1e-3, 2e-3])
    with pytest.raises(MeristemError, match="schedules no optimizer"):
        carry_scheduler(object(), after)
    two = torch.optim.SGD([{"params": [p]} for p in list(larger.parameters())[:2]], lr=1.0)
    with pytest.raises(MeristemError, match="has 2 groups"):
        carry_scheduler(plateau, two)


def test_an_average_of_the_run_grows_with_it(run):
    net, loss, _, grown = run
    averaged = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, p, n: 0.9 * a + 0.1 * p)
    with torch.no_grad():
        for p in averaged.module.parameters():
            p += 0.01 * torch.randn_like(p)
    averaged.n_averaged += 7
    larger = grown.module()
    carried = grown.carry(averaged.module.state_dict())
    after = carry_average(averaged, larger, carried)
    assert float(loss(after.module).detach()) == pytest.approx(
        float(loss(averaged.module).detach()), abs=1e-12
    )
    assert int(after.n_averaged) == 7
    after.update_parameters(larger)
    expected = 0.9 * carried["layers.2.up.weight"] + 0.1 * larger.get_parameter(
        "layers.2.up.weight"
    )
    torch.testing.assert_close(
        after.module.get_parameter("layers.2.up.weight").detach(), expected.detach()
    )
    state = averaged.module.state_dict()
    with pytest.raises(MeristemError, match="have no norm"):
        grown.carry({n: t for n, t in state.items() if n != "norm.weight"})
    with pytest.raises(MeristemError, match=r"norm\.weight has the shape"):
        grown.carry(state | {"norm.weight": torch.ones(3)})
