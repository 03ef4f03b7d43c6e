"""Upcycling: MLPs become mixtures that compute the same, whose experts part and whose routers learn."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import meristem
from meristem.passes.upcycle import UPCYCLE
from meristem.rewrite.axes import Term
from meristem.rewrite.errors import (
    CarrierError,
    MeristemError,
    NotPreserved,
    PinnedDimension,
    SelectorError,
    SizeError,
)
from meristem.rewrite.mlps import find_mlps
from meristem.rewrite.plan import Plan
from meristem.rewrite.upcycle import SPREAD
from meristem.verify.experts import watch
from tests.e2e.measure import algebra_error
from tests.passes.cases import LIMIT, dimension, traced, wish
from tests.zoo import ZOO

TOP3 = "upcycle:top=3"


class Plain(nn.Module):
    def __init__(self, n, units):
        super().__init__()
        self.up, self.down = nn.Linear(n, units), nn.Linear(units, n)

    def forward(self, x):
        return self.down(torch.nn.functional.gelu(self.up(x)))


class Gated(nn.Module):
    def __init__(self, n, units):
        super().__init__()
        self.both = nn.Linear(n, 2 * units, bias=False)
        self.down = nn.Linear(units, n, bias=False)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, -1)
        return self.down(torch.nn.functional.silu(gate) * up)


class Tower(nn.Module):
    """A plain MLP on a residual stream, and a gated one right behind it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm, self.plain, self.gated = nn.LayerNorm(6), Plain(6, 10), Gated(6, 8)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(self.gated(self.plain(self.norm(x))) + x)


@pytest.fixture(scope="module")
def tokens():
    return torch.arange(30).reshape(3, 10) % 11


@pytest.fixture(scope="module")
def model(tokens):
    torch.manual_seed(0)
    return meristem.trace(Tower().eval(), (tokens,), dynamic_shapes=None)


@pytest.fixture(scope="module")
def grown(model):
    return meristem.grow(model, {"experts": 4, "experts@gated": "x5"}, method=TOP3, seed=2)


# -- what it becomes -----------------------------------------------------------------------------


def test_every_mlp_becomes_a_mixture_that_computes_the_same(model, grown, tokens):
    assert {c.name: c.after for c in grown.plan.changes} == {"experts@plain": 4, "experts@gated": 5}
    assert algebra_error(model, grown, tokens) <= LIMIT
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    notes = report.levels["training"].notes
    learning = [n for n in notes if "router.weight learns from the second step on" in n]
    assert len(learning) == 2, str(report)


def test_names_and_weights(model, grown):
    old, new = model.state_dict(), grown.state_dict()
    for i in range(4):
        assert torch.equal(new[f"plain.experts.{i}.up.weight"], old["plain.up.weight"])
        assert torch.equal(new[f"gated.experts.{i}.down.weight"], old["gated.down.weight"])
    assert "plain.up.weight" not in new
    router = new["gated.router.weight"]
    assert router.shape == (5, 6)
    assert 0.5 * SPREAD < router.std() < 1.5 * SPREAD
    again = meristem.grow(model, {"experts": 5}, method=TOP3, seed=2).state_dict()
    assert torch.equal(again["gated.router.weight"], router), "by seed and name alone"
    other = meristem.grow(model, {"experts": 5}, method=TOP3, seed=3).state_dict()
    assert not torch.equal(other["gated.router.weight"], router)
    assert [a.partition(" over")[0] for a in grown.plan.added] == [
        f"router {n}.router.weight" for n in ("plain", "gated")
    ]
    assert not grown.plan.approximate
    assert not grown.plan.locked


def reference(state, place, x, top):
    """softmax over the largest scores, summed over the chosen experts, token by token."""
    scores = x @ state[f"{place}.router.weight"].T
    best, chosen = scores.topk(top)
    out = torch.zeros_like(x)
    for at in np.ndindex(*x.shape[:-1]):
        for w, e in zip(best[at].softmax(-1), chosen[at], strict=True):
            own = {n: state[f"{place}.experts.{e}.{n}"] for n in ("up.weight", "down.weight")}
            bias = {n: state[f"{place}.experts.{e}.{n}"] for n in ("up.bias", "down.bias")}
            h = torch.nn.functional.gelu(own["up.weight"] @ x[at] + bias["up.bias"])
            out[at] += w * (own["down.weight"] @ h + bias["down.bias"])
    return out


def test_unequal_experts_are_weighed_as_the_docs_say(tmp_path):
    """In torch and in the file, with weights drawn anew."""
    torch.manual_seed(1)
    x = torch.randn(9, 6)
    model = meristem.trace(nn.Sequential(Plain(6, 7)).eval(), (x,), dynamic_shapes=None)
    grown = meristem.grow(model, {"experts": 5}, method="upcycle:top=2")
    module = grown.module()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape))
        state = module.state_dict()
        wanted = reference(state, "0", x, 2)
        torch.testing.assert_close(module(x), wanted)
    file = meristem.grow(meristem.load(model.save(tmp_path / "small.onnx")), grown.plan)
    path = str(file.save(tmp_path / "big.onnx"))
    big = onnx.load(path)
    stored = [t for t in big.graph.initializer if t.name in state]
    assert {t.name for t in stored} == set(state)
    for t in stored:
        t.CopyFrom(onnx.numpy_helper.from_array(state[t.name].numpy(), t.name))
    run = onnxruntime.InferenceSession(big.SerializeToString(), providers=["CPUExecutionProvider"])
    got = run.run(None, {run.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_experts_part_and_the_router_wakes(model, grown, tokens):
    """The router's first gradient is zero, for all experts are equal; after a step it is not."""
    module = grown.module()
    steps = []
    for _ in range(2):
        module.zero_grad()
        module(tokens).square().sum().backward()
        steps.append({n: p.grad.clone() for n, p in module.named_parameters()})
        with torch.no_grad():
            for p in module.parameters():
                p -= 1e-2 * p.grad
    name = "plain.router.weight"
    largest = max(float(g.abs().max()) for g in steps[0].values())
    assert steps[0][name].abs().max() < 1e-5 * largest
    assert steps[1][name].abs().max() > 100 * steps[0][name].abs().max()
    ups = [module.state_dict()[f"plain.experts.{i}.up.weight"] for i in range(4)]
    assert all(not torch.equal(ups[0], u) for u in ups[1:])


def test_verification_sees_experts_that_stay_equal():
    """Equal steps for all experts, or for less than two, are no mixture that trains."""
    names = [[f"m.experts.{i}.w"] for i in range(3)]
    router = "m.router.weight"
    grads = {**{n: np.ones(2) for [n] in names}, router: np.ones(2)}
    same = watch({router: names}, [grads], {n: np.ones(2) for [n] in names}, 1e-13, 1e-9)
    assert "stay equal" in same.failures[0]
    idle = {**grads, "m.experts.1.w": np.zeros(2), "m.experts.2.w": np.zeros(2)}
    assert "fewer than two" in watch({router: names}, [idle], {}, 1e-13, 1e-9).failures[0]
    grads["m.experts.2.w"] = np.zeros(2)
    weights = {n: np.full(2, float(i)) for i, [n] in enumerate(names)}
    some = watch({router: names}, [grads], weights, 1e-13, 1e-9)
    assert not some.failures
    assert some.idle == {"m.experts.2.w"}
    assert "chosen by no token" in some.notes[0]


# -- carriers and what follows --------------------------------------------------------------------


def test_plans_go_both_ways(model, grown, tokens, tmp_path):
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    plan = Plan.from_json(grown.plan.to_json())
    big = meristem.grow(file, plan)
    report = meristem.verify(file, big)
    assert report.ok, str(report)
    assert report.levels["algebra"].word in ("noise-floor", "bit-exact")
    loaded = meristem.load(big.save(tmp_path / "big.onnx"))
    assert [d.size for d in loaded.dimensions if d.kind == "mlp"].count(8) == 5
    names = grown.state_dict()
    for name, array in big.state_dict().items():
        if "router" in name and name in names:
            np.testing.assert_array_equal(array, names[name].numpy())
    back = meristem.grow(model, Plan.from_json(big.plan.to_json())).state_dict()
    assert all(torch.equal(t, back[n]) for n, t in names.items())


def test_mixtures_grow_again(model, grown, tokens, tmp_path):
    for request, method in (
        ({"mlp": "+4", "hidden": 9}, "preserve"),
        ({"mlp@plain*": "x2"}, "lemon"),
    ):
        bigger = meristem.grow(grown, request, method=method)
        assert algebra_error(grown, bigger, tokens) <= LIMIT
    both = meristem.grow(model, {"experts": 3, "mlp": "+2", "hidden": 8}, method="lemon+upcycle")
    assert algebra_error(model, both, tokens) <= LIMIT
    assert both.state_dict()["plain.experts.2.up.weight"].shape == (12, 8)
    path = grown.save(tmp_path / "mixture.pt2")
    assert torch.equal(meristem.load(path).module()(tokens), grown.module()(tokens))


def test_sizes_that_vary(tokens):
    torch.manual_seed(0)
    model = meristem.trace(Tower().eval(), (tokens,))
    grown = meristem.grow(model, {"experts@gated": 3}, method="upcycle")
    more = torch.arange(28).reshape(4, 7) % 11
    torch.testing.assert_close(grown.module()(more), model.module()(more))


# -- the zoo --------------------------------------------------------------------------------------

MLPS = [n for n, e in ZOO.items() if "mlp" in e.kinds]
QUICK = ("llama_tied",)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in MLPS]
)
def test_models(name):
    model, inputs = traced(name)
    found = find_mlps(model.graph, model.equations, model.dimensions)
    assert all(m.block is not None for m in found), [m.reason for m in found]
    grown = meristem.grow(model, {"experts": 4}, method="upcycle")
    assert len(grown.plan.changes) == len(found)
    assert algebra_error(model, grown, *inputs) <= LIMIT
    again = meristem.grow(grown, {"mlp": "+4", "layers": "+1"} if name in QUICK else {"mlp": "+4"})
    assert algebra_error(grown, again, *inputs) <= LIMIT


@pytest.mark.full
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_models_and_files_are_verified(name, tmp_path):
    model, _ = traced(name)
    grown = meristem.grow(model, {"experts": 4, "mlp": "+2"}, method="lemon+upcycle")
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    file = meristem.load(model.save(tmp_path / "small.onnx"))
    report = meristem.verify(file, meristem.grow(file, grown.plan))
    assert report.ok, str(report)


# -- refusals -------------------------------------------------------------------------------------


class Odd(nn.Module):
    """An MLP whose units are read elsewhere too, one that is applied twice, one with a shared weight."""

    def __init__(self):
        super().__init__()
        self.seen, self.twice, self.tied = Plain(4, 6), Plain(4, 7), Plain(4, 8)

    def forward(self, x):
        h = torch.relu(self.seen.up(x))
        y = self.seen.down(h)
        y = self.twice(self.twice(y))
        return self.tied(y) + (y @ self.tied.up.weight.T).sum(-1, keepdim=True), h


def test_what_is_no_mlp_says_why():
    torch.manual_seed(0)
    model = meristem.trace(Odd().eval(), (torch.randn(3, 4),), dynamic_shapes=None)
    for name, why in (
        ("experts@seen", "the output of the model reads the inside of it"),
        ("experts@twice", "its units are summed in 2 places"),
        ("experts@", r"tied.up.weight is read elsewhere too"),
    ):
        with pytest.raises(PinnedDimension, match=why):
            meristem.grow(model, {name: 4}, method="upcycle")


def test_refusals(model, grown):
    for sizes, method, error, why in (
        (
            {"experts": 2},
            TOP3,
            SizeError,
            'each token takes 3; ask for 3 or more, or for method="upc',
        ),
        ({"experts": 0}, "upcycle", SizeError, "cannot become 0"),
        ({"mlp": 12}, "upcycle", MeristemError, "the request names none"),
        ({"experts": 4}, "upcycle:top=1", MeristemError, "so that no router would learn"),
        ({"experts": 4}, "upcycle:k=2", MeristemError, "the option of upcycle is top=2"),
        ({"experts": 4}, "upcycle:top=3,top=2", MeristemError, "gives top twice; give it once"),
        ({"experts@third": 4}, "upcycle", SelectorError, "matches nothing"),
    ):
        with pytest.raises(error, match=why):
            meristem.plan(model, sizes, method=method)
    with pytest.raises(NotPreserved, match="a router and a choice are operators"):
        meristem.plan(model, {"experts": 4}, method="upcycle", compensate="weights")
    with pytest.raises(PinnedDimension, match="is inside of a mixture already"):
        meristem.plan(grown, {"experts": 4}, method="upcycle")
    linear = meristem.trace(nn.Linear(3, 4).eval(), (torch.randn(2, 3),), dynamic_shapes=None)
    with pytest.raises(SelectorError, match="no MLP that could become a mixture"):
        meristem.plan(linear, {"experts": 4}, method="upcycle")
    same = meristem.grow(model, {"experts": 1}, method="upcycle")
    assert not same.plan.changes
    assert "an MLP is one expert as it is" in same.plan.notes[0]
    with pytest.raises(SelectorError, match="experts are modules of their own; for another number"):
        meristem.plan(grown, {"experts": 8})


def test_old_files(model, tmp_path, monkeypatch):
    file = meristem.load(model.save(tmp_path / "old.onnx"))
    monkeypatch.setattr(type(file.carrier), "version", lambda self, domain="": 10)
    with pytest.raises(CarrierError, match="of opset 10, and a mixture needs 11"):
        meristem.grow(file, {"experts": 4}, method="upcycle")


@pytest.mark.parametrize(("target", "size"), [(5, 5), ("+3", 4), ("x4", 4), ("%8", 8)])
def test_targets(target, size):
    d = dimension("experts", Term(1))
    assert UPCYCLE.solve([wish(d, target)], 2) == {d.name: size}
