"""What optimizers have beside their state: order, names, rates as tensors, memory formats, attributes."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import meristem
from meristem.rewrite.errors import CarrierError, MeristemError
from meristem.training import Overshoot, Rewarmed, carry_scheduler, register_state, separate
from tests.training.nets import NETS, step


@pytest.fixture(scope="module")
def deeper():
    """A decoder, and its growth by two layers and a wider stream."""
    net, x, loss = NETS["decoder"]()
    return net, loss, meristem.grow(meristem.trace(net, (x,)), {"layers": 4, "hidden": 16})


def test_a_fresh_optimizer_loads_the_state_that_was_carried(deeper):
    """By number, which is how checkpoints keep it; also after new entries were parameters of their own."""
    net, loss, grown = deeper
    optimizer = torch.optim.AdamW(net.named_parameters(), lr=1e-3)
    step(copy.deepcopy(net), optimizer, loss)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    names = [n for n, _ in larger.named_parameters()]
    assert after.param_groups[0]["param_names"] == names
    assert [id(p) for p in after.param_groups[0]["params"]] == [id(p) for p in larger.parameters()]
    twin = copy.deepcopy(larger)
    other = torch.optim.AdamW(twin.named_parameters(), lr=1e-3)
    other.load_state_dict(copy.deepcopy(after.state_dict()))  # torch shares step counts
    parts = separate(grown, larger, after)
    assert all("original1" in n or "layers" in n for n in after.param_groups[1]["param_names"])
    parts.fuse()
    assert after.param_groups[0]["param_names"] == names
    for _ in range(2):
        assert step(larger, after, loss) == pytest.approx(step(twin, other, loss), abs=1e-12)


def test_groups_in_an_order_of_their_own_keep_it(deeper):
    net, _, grown = deeper
    backwards = torch.optim.SGD(list(net.parameters())[::-1], lr=1.0)
    larger = grown.module()
    held = grown.optimizer(backwards, module=larger).param_groups[0]["params"]
    names = {id(p): n for n, p in larger.named_parameters()}
    assert names[id(held[0])] == "norm.weight"
    assert len(held) == len(names)


def test_a_rate_that_is_a_tensor_goes_on(deeper):
    net, loss, grown = deeper
    small = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(small.parameters(), lr=torch.tensor(0.01), foreach=False)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for _ in range(10):
        step(small, optimizer, loss)
        scheduler.step()
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger, source=small)
    follower = carry_scheduler(scheduler, after)
    rate = float(optimizer.param_groups[0]["lr"])
    assert float(after.param_groups[0]["lr"]) == rate == pytest.approx(0.005)
    separate(grown, larger, after)
    follower = Rewarmed(carry_scheduler(follower, after), Overshoot(total=9, steps=3), [1])
    for _ in range(2):
        after.step()
        follower.step()
        optimizer.step()
        scheduler.step()
    rates = [float(g["lr"]) for g in after.param_groups]
    assert rates[0] == float(optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(rate * 1.2)
    assert float(optimizer.param_groups[0]["lr"]) < rate


def test_a_new_warm_up_ends_where_the_parts_are_fused(deeper):
    net, _, grown = deeper
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t)
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    parts = separate(grown, larger, after)
    follower = Rewarmed(
        carry_scheduler(scheduler, after), Overshoot(total=9, steps=3), parts.groups
    )
    after.step()
    follower.step()
    with pytest.raises(CarrierError, match=r"call fuse\(\) before it grows"):
        meristem.trace(larger, (torch.randint(23, (2, 5)),))
    parts.fuse()
    again = carry_scheduler(follower, after)
    after.step()
    again.step()
    assert [g["lr"] for g in after.param_groups] == pytest.approx([0.01 * 0.9**2])


def test_nothing_is_left_behind_for_another_scheduler(deeper):
    net, _, grown = deeper
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=1e-3)
    for loss in (1.0, 2.0):
        plateau.step(loss)
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    carry_scheduler(plateau, after)
    lr_scheduler.LambdaLR(after, lambda _: 1.0)
    assert after.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_fused_step_finds_the_state_in_the_format_of_its_weight(rebuilt):
    net, x, loss = NETS["convolutions"]()
    net = net.float().eval().to(memory_format=torch.channels_last)
    x, kept = x.float(), []

    def of(module):
        return module(x).square().mean()

    for fused in (False, True):
        small = copy.deepcopy(net)
        optimizer = torch.optim.AdamW(small.parameters(), lr=1e-2, fused=fused)
        step(small, optimizer, of)
        grown = meristem.grow(meristem.trace(small, (x,)), {"channels": "x2"})
        larger = grown.module()
        formats = {n: p.is_contiguous(memory_format=torch.channels_last)
                   for n, p in larger.named_parameters() if p.dim() == 4}  # fmt: skip
        assert all(formats.values())
        if rebuilt:
            larger = larger.to(memory_format=torch.contiguous_format)
        after = grown.optimizer(optimizer, module=larger)
        for _ in range(3):
            step(larger, after, of)
        kept.append([p.detach().clone() for p in larger.parameters()])
    for plain, other in zip(*kept, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)
    del loss


class Noted(torch.optim.AdamW):
    """AdamW that counts its steps by itself."""

    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)
        self.notes = {"steps": 0}

    def step(self, closure=None):
        self.notes["steps"] += 1
        return super().step(closure)


def test_attributes_and_hooks_of_a_class_come_along(deeper):
    net, loss, grown = deeper
    optimizer = Noted(net.parameters())
    seen = []
    optimizer.register_step_post_hook(lambda o, *_: seen.append(type(o).__name__))
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger)
    step(larger, after, loss)
    assert after.notes == {"steps": 1}
    assert optimizer.notes == {"steps": 0}
    assert set(seen) == {"Noted"}
    optimizer.notes["first"] = next(net.parameters())
    with pytest.raises(MeristemError, match=r"Noted\.notes holds parameters"):
        grown.optimizer(optimizer, module=larger)


def test_factors_of_another_library(deeper):
    from transformers.optimization import Adafactor

    net, loss, grown = deeper
    small = copy.deepcopy(net).float()
    optimizer = Adafactor(small.parameters())
    step(small, optimizer, loss)
    larger = grown.module()
    after = grown.optimizer(optimizer, module=larger, source=small)
    name = "layers.0.up.weight"
    rows, columns = (
        (s["exp_avg_sq_row"], s["exp_avg_sq_col"])
        for s in (
            optimizer.state[small.get_parameter(name)],
            after.state[larger.get_parameter(name)],
        )
    )
    assert rows[1].shape == (12,)
    assert columns[0].shape == (20,)
    assert columns[1].shape == (16,)
    step(larger, after, loss)
    with pytest.raises(MeristemError, match="name both, or neither"):
        register_state(Noted, {"exp_avg": "first", "r": "rows"})


def test_the_module_of_another_growth_cannot_be_split(deeper):
    net, _, grown = deeper
    larger, other = grown.module(), grown.module()
    optimizer = grown.optimizer(torch.optim.SGD(net.parameters(), lr=1.0), module=larger)
    with pytest.raises(MeristemError, match="no parameter of this module"):
        separate(grown, other, optimizer)
    assert isinstance(other.get_submodule("layers"), nn.Module)
