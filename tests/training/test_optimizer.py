"""An optimizer goes on through growth: steps of old entries, groups, what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.moments import carried
from meristem.training.lineage import Lineage
from tests.training.nets import NETS, step

# With an epsilon of one part in 1e300 Adam's step does not depend on the unit of the gradient.
KINDS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0, eps=1e-300),
    "decayed": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, eps=1e-300),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True, eps=1e-300),
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True, eps=1e-300),
    "adamax": lambda p: torch.optim.Adamax(p, eps=1e-300),
    "nadam": lambda p: torch.optim.NAdam(p, eps=1e-300),
    "adagrad": lambda p: torch.optim.Adagrad(p, eps=1e-300),
}
GROWTHS = {
    "zero": ("zero", {"mlp": "x1.5", "hidden": "x1.5"}, "end"),
    "copy": ("copy", {"mlp": "x2", "hidden": "x2"}, "end"),
    "pair": ("pair", {"mlp": "+4"}, "end"),
    "identity": ("preserve", {"layers": "+2"}, "end"),
    "spread": ("preserve", {"layers": "+2"}, "spread"),
    "front": ("preserve", {"layers": "+1"}, [0]),
}
# For every change; the others by `make test-full`.
QUICK = {("decoder", g) for g in ("zero", "copy", "front")} | {
    ("convolutions", g) for g in ("copy", "pair", "identity")
}


def trained(name, kind, steps=3):
    net, x, loss = NETS[name]()
    optimizer = KINDS[kind](net.parameters()) if isinstance(kind, str) else kind(net.parameters())
    net.eval()  # batch norms with their statistics, so that both models see the same
    for _ in range(steps):
        step(net, optimizer, loss)
    return net, x, loss, optimizer


def sizes_of(name, growth):
    method, sizes, at = GROWTHS[growth]
    if name == "convolutions":
        sizes = {{"mlp": "channels", "hidden": "channels"}.get(k, k): s for k, s in sizes.items()}
    return method, sizes, at


@pytest.mark.parametrize(
    ("name", "growth"),
    [
        pytest.param(n, g, marks=() if (n, g) in QUICK else pytest.mark.full)
        for n in NETS
        for g in GROWTHS
    ],
)
def test_a_step_of_old_entries_is_the_old_step(name, growth):
    """Every optimizer keeps what three steps gave it, at a rate of zero; then both models make one step."""
    net, x, loss = NETS[name]()
    net.eval()  # batch norms with their statistics, so that both models see the same
    method, sizes, at = sizes_of(name, growth)
    grown = meristem.grow(meristem.trace(net, (x,)), sizes, method=method, at=at)
    descent = Lineage(grown.plan, grown.origin.names)
    for kind, make in KINDS.items():
        old, larger = copy.deepcopy(net), grown.module()
        optimizer = make(old.parameters())
        rate = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = 0.0
        for _ in range(3):
            step(old, optimizer, loss)
        optimizer.param_groups[0]["lr"] = rate
        after = grown.optimizer(optimizer, source=old)
        assert type(after) is type(optimizer)
        before, grown_before = weights(old), weights(larger)
        jump = step(larger, after, loss) - step(old, optimizer, loss)
        assert abs(jump) < 1e-9, "the loss is continuous"
        moves = {n: (w - before[n]).numpy() for n, w in weights(old).items()}
        found = {n: (w - grown_before[n]).numpy() for n, w in weights(larger).items()}
        own = larger.named_parameters(remove_duplicate=False)
        compared = 0
        for heir in (h for h in descent.heirs((n, id(p)) for n, p in own) if h.whole):
            recipe, moved = descent.recipe(heir.source), moves[heir.source]
            expected, mask = moved, np.ones_like(moved)
            if recipe is not None:
                expected = carried(recipe, moved, 1.0 if kind == "sgd" else 0.0)
                mask = carried(recipe, np.ones_like(moved), 0.0) != 0
            if (
                kind == "decayed"
            ):  # decay follows the weight: what is scaled or shared decays by its size
                was = before[heir.source].numpy()
                whole = was if recipe is None else carried(recipe, was, 0.0)
                expected = expected - 1e-3 * (grown_before[heir.name].numpy() - whole)
            error = np.abs((found[heir.name] - expected) * mask).max()
            assert error < 1e-9 * np.abs(moved).max(), (kind, heir)
            compared += int(mask.sum())
        assert compared >= sum(p.numel() for p in net.parameters())


def weights(module):
    return {n: p.detach().clone() for n, p in module.named_parameters(remove_duplicate=False)}


def test_moments_of_old_entries_and_of_new_ones():
    """By hand: a layer of two units becomes four copies; another grows by one unit of zeros."""
    net = nn.Sequential(
        nn.Linear(3, 2, bias=False), nn.SiLU(), nn.Linear(2, 1, bias=False)
    ).double()
    optimizer = torch.optim.Adam(net.parameters())
    x = torch.randn(4, 3, dtype=torch.float64)
    step(net, optimizer, lambda m: m(x).square().mean())
    model = meristem.trace(net, (x,))
    state = optimizer.state[net[0].weight]
    m, v = state["exp_avg"], state["exp_avg_sq"]

    copies = meristem.grow(model, {"mlp": 4}, method="copy")
    larger = copies.module()
    got = copies.optimizer(optimizer).state[larger.get_parameter("0.weight")]
    torch.testing.assert_close(got["exp_avg"], torch.cat([m, m]) / 2)
    torch.testing.assert_close(got["exp_avg_sq"], torch.cat([v, v]) / 4)
    got = copies.optimizer(optimizer, new="asymmetric").state[larger.get_parameter("0.weight")]
    torch.testing.assert_close(got["exp_avg_sq"], torch.cat([v / 4, 0 * v]))
    shared = copies.optimizer(optimizer).state[larger.get_parameter("2.weight")]["exp_avg"]
    torch.testing.assert_close(shared, optimizer.state[net[2].weight]["exp_avg"].repeat(1, 2))

    wider = meristem.grow(model, {"mlp": 3}, method="zero")
    larger = wider.module()
    for new, rest in (("zero", 0 * v[:1]), ("mean", v.mean(0, keepdim=True))):
        got = wider.optimizer(optimizer, new=new).state[larger.get_parameter("0.weight")]
        torch.testing.assert_close(got["exp_avg"], torch.cat([m, 0 * m[:1]]))
        torch.testing.assert_close(got["exp_avg_sq"], torch.cat([v, rest]))
        assert float(got["step"]) == 1


def test_factored_moments_are_lifted_as_what_they_stand_for():
    net, x, _, optimizer = trained("decoder", torch.optim.Adafactor)
    grown = meristem.grow(meristem.trace(net, (x,)), {"mlp": "x2"}, method="copy")
    larger = grown.module()
    got = grown.optimizer(optimizer).state[larger.get_parameter("layers.0.up.weight")]
    old = optimizer.state[net.layers[0].up.weight]

    def whole(s):
        return s["row_var"] @ s["col_var"] / s["row_var"].mean(-2, keepdim=True)

    torch.testing.assert_close(whole(got), whole(old).repeat(2, 1) / 4)


def test_groups_stay_and_new_layers_join_those_of_their_like():
    net, x, loss = NETS["decoder"]()
    matrices = [p for p in net.parameters() if p.dim() > 1]
    gains = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "lr": 5e-4}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.0)
    step(net, optimizer, loss)
    grown = meristem.grow(meristem.trace(net, (x,)), {"layers": 4, "mlp": 24})
    larger = grown.module()
    after = grown.optimizer(optimizer)
    assert [(g["lr"], g["weight_decay"]) for g in after.param_groups] == [(1e-3, 0.1), (5e-4, 0.0)]
    held = [{id(p) for p in g["params"]} for g in after.param_groups]
    assert held == [
        {id(p) for p in larger.parameters() if p.dim() > 1},
        {id(p) for p in larger.parameters() if p.dim() == 1},
    ]
    fresh = larger.get_parameter("layers.3.up.weight")
    assert float(after.state[fresh]["step"]) == 1
    assert not after.state[fresh]["exp_avg"].any()
    assert after.state[fresh]["exp_avg_sq"].any()
    assert fresh not in grown.optimizer(optimizer, new="zero").state


def test_two_optimizers_share_a_model():
    """Muon has the matrices of the blocks, AdamW the rest; gates go to the latter."""
    net, x, loss = NETS["decoder"]()
    inner = [p for n, p in net.named_parameters() if p.dim() == 2 and "layers" in n]
    rest = [p for p in net.parameters() if not any(p is q for q in inner)]
    pair = [torch.optim.Muon(inner), torch.optim.AdamW(rest)]
    for optimizer in pair:
        loss(net).backward()
        optimizer.step()
    grown = meristem.grow(meristem.trace(net, (x,)), {"layers": 3, "hidden": 16})
    larger = grown.module()
    after = [grown.optimizer(o) for o in pair]
    held = [p for o in after for g in o.param_groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(larger.parameters()))
    for o in after:
        step(larger, o, loss)


def test_frozen_weights_stay_out_and_newly_frozen_ones_keep_their_state():
    net, x, loss = NETS["decoder"]()
    net.embed.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    step(net, optimizer, loss)
    grown = meristem.grow(meristem.trace(net, (x,)), {"layers": 3})
    larger = grown.module()
    for name, p in larger.named_parameters():
        p.requires_grad_("layers.2" in name)
    after = grown.optimizer(optimizer)
    held = {id(p) for g in after.param_groups for p in g["params"]}
    assert id(larger.get_parameter("embed.weight")) not in held
    old = larger.get_parameter("layers.0.up.weight")
    before = after.state[old]["exp_avg"].clone()
    step(larger, after, loss)
    torch.testing.assert_close(after.state[old]["exp_avg"], before)


def test_state_by_names_as_distributed_checkpoints_give_it():
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    net, x, loss, optimizer = trained("decoder", "adamw")
    options = StateDictOptions(full_state_dict=True)
    saved = get_optimizer_state_dict(net, optimizer, options=options)
    grown = meristem.grow(meristem.trace(net, (x,)), {"layers": 3, "hidden": 16})
    carried_state = grown.optimizer_state(saved, torch.optim.AdamW)
    larger, twin = grown.module(), grown.module()
    after = grown.optimizer(optimizer, module=larger)
    fresh = KINDS["adamw"](twin.parameters())
    set_optimizer_state_dict(twin, fresh, carried_state, options=options)
    for _ in range(3):
        assert step(larger, after, loss) == step(twin, fresh, loss)


def test_what_does_not_belong_is_refused_and_nothing_changes():
    net, x, _, optimizer = trained("decoder", "adamw")
    model = meristem.trace(net, (x,))
    grown = meristem.grow(model, {"mlp": 24})
    with pytest.raises(MeristemError, match=r"call grown\.module\(\) first"):
        grown.optimizer(optimizer)
    larger = grown.module()
    stranger = torch.optim.AdamW(copy.deepcopy(net).parameters())
    with pytest.raises(MeristemError, match="none of the model that grew"):
        grown.optimizer(stranger)
    twin = copy.deepcopy(net)
    assert grown.optimizer(torch.optim.AdamW(twin.parameters()), source=twin)
    with pytest.raises(MeristemError, match="new='past' is not known; choose from zero, mean"):
        grown.optimizer(optimizer, new="past")
    with pytest.raises(MeristemError, match="what LBFGS keeps for a weight is not known"):
        grown.optimizer(torch.optim.LBFGS(net.parameters()))
    other = meristem.grow(model, {"mlp": 28}).module()
    with pytest.raises(MeristemError, match="give a module of this growth"):
        grown.optimizer(optimizer, module=other)
    with pytest.raises(MeristemError, match="did not grow"):
        model.optimizer(optimizer, module=larger)
    state = optimizer.state[net.layers[0].up.weight]
    kept = state["exp_avg"]
    state["exp_avg"] = kept[:3]
    with pytest.raises(MeristemError, match="the state does not belong to this model"):
        grown.optimizer(optimizer)
    state["exp_avg"], state["ages"] = kept, kept
    with pytest.raises(MeristemError, match=r"keeps 'ages' for layers\.0\.up\.weight"):
        grown.optimizer(optimizer)


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("split", {"layers": 4}),
        pytest.param("upcycle:top=2", {"experts": 4}, marks=pytest.mark.full),
    ],
)
def test_equal_weights_that_do_together_what_one_did_share_its_gradient(method, sizes):
    """Their gradients sum to the old one; last weights of split blocks hold a part, so have more of it."""
    net, x, _, optimizer = trained("decoder", "adamw")
    grown = meristem.grow(meristem.trace(net, (x,)), sizes, method=method)
    larger = grown.module()
    after = grown.optimizer(optimizer)
    new = dict(larger.named_parameters(remove_duplicate=False))
    descent = Lineage(grown.plan, grown.origin.names)
    old = dict(net.named_parameters())
    heirs = descent.heirs((n, id(p)) for n, p in new.items())
    shared = {h.source for h in heirs if h.among > 1}
    assert len(shared) == (18 if method == "split" else 6)
    for source in shared:
        own = [h.name for h in heirs if h.source == source]
        k = len(own)
        for name in own:
            folded = (new[name].detach() / old[source].detach()).mean()
            expected = optimizer.state[old[source]]["exp_avg"] / (k * folded)
            torch.testing.assert_close(after.state[new[name]]["exp_avg"], expected)


class Lion(torch.optim.Optimizer):
    """Sign of an average of gradients (arXiv:2302.06675)."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                p -= group["lr"] * (0.9 * average + 0.1 * p.grad).sign()
                average.lerp_(p.grad, 0.01)


def test_other_optimizers_go_by_rules_that_are_given():
    net, x, loss, optimizer = trained("decoder", Lion)
    grown = meristem.grow(meristem.trace(net, (x,)), {"mlp": "x2"}, method="copy")
    larger = grown.module()
    with pytest.raises(MeristemError, match=r"register_state\(Lion"):
        grown.optimizer(optimizer)
    with pytest.raises(MeristemError, match="no such rule of state"):
        meristem.training.register_state(Lion, {"average": "mean"})
    meristem.training.register_state(Lion, {"average": "first"})
    after = grown.optimizer(optimizer)
    step(larger, after, loss)
    step(net, optimizer, loss)
    torch.testing.assert_close(
        larger.get_parameter("layers.0.up.weight")[:20].detach(), net.layers[0].up.weight.detach()
    )
