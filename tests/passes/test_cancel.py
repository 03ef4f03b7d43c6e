"""Cancel: new blocks are zero by halves that cancel, in every branch, and all of them learns at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import meristem
from meristem.passes.cancel import CANCEL
from meristem.rewrite.axes import Term
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.made import Rebuilt, made
from meristem.rewrite.plan import Plan
from meristem.rewrite.request import by_name
from tests.e2e.measure import algebra_error, deployment_ratio, leaves
from tests.passes.cases import LIMIT, dimension, traced, wish
from tests.zoo import ZOO

NAMES = [name for name, entry in ZOO.items() if "layers" in entry.kinds]
QUICK = ["nanogpt", "llama"]
POST = "a norm or a gate follows its sum"
NORMED = "it is not proved that halves cancel in"
REFUSED = {
    **dict.fromkeys(("bert", "bert_encoder", "roberta", "bart", "opt_postnorm"), POST),
    **dict.fromkeys(("torch_encoder_postnorm", "torch_encoder_bare"), POST),
    "gemma2": NORMED,  # a norm behind each branch
}


def cases(names: list[str]) -> list[Any]:
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in names]


def deeper(model: Any) -> dict[str, int]:
    stacks = model.stacks.items()
    return {by_name(n): s.size + s.period for n, s in stacks}


class Block(nn.Module):
    def __init__(self, width: int, act: Any, post: bool = False) -> None:
        super().__init__()
        self.norm, self.act, self.post = nn.LayerNorm(6), act, post
        self.up, self.down = nn.Linear(6, width), nn.Linear(width, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.down(self.act(self.up(self.norm(x))))
        return x + (self.norm(y) if self.post else y)


def stack(width: int, act: Any = torch.nn.functional.silu, **options: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    blocks = (Block(width, act, **options) for _ in range(2))
    module = nn.Sequential(nn.Linear(4, 6), *blocks, nn.Linear(6, 3)).eval()
    x = torch.randn(5, 4)
    return meristem.trace(module, (x,)), x


def test_targets() -> None:
    wanted = [wish(dimension("layers", Term(4)), "x1.6")]
    assert CANCEL.solve(wanted, {wanted[0].dimension.name: 2}) == {wanted[0].dimension.name: 6}


@pytest.mark.parametrize("width", [8, 9])
def test_the_halves_by_hand(width: int) -> None:
    """[v, v] and [z, -z], copied from the block before; an odd unit is read by zeros."""
    model, _ = stack(width)
    new = meristem.grow(model, {"layers": 3}, method="cancel").state_dict()
    old, half = model.state_dict(), width // 2
    for name in ("up.weight", "up.bias"):
        a, b = old[f"2.{name}"], new[f"3.{name}"]
        assert torch.equal(b[:half], a[:half])
        assert torch.equal(b[half : 2 * half], a[:half])
        assert torch.equal(b[2 * half :], a[2 * half :])
    a, b = old["2.down.weight"], new["3.down.weight"]
    assert torch.equal(b[:, :half], a[:, :half])
    assert torch.equal(b[:, half : 2 * half], -a[:, :half])
    assert not b[:, 2 * half :].any()
    assert b[:, : 2 * half].abs().min() > 0
    assert not new["3.down.bias"].any()
    assert torch.equal(new["3.norm.weight"], old["2.norm.weight"])


def test_every_new_weight_has_a_gradient_at_once_and_the_halves_part() -> None:
    model, x = stack(8)
    module = meristem.grow(model, {"layers": 3}, method="cancel").module()
    module(x).square().sum().backward()
    grads = {n.removeprefix("3."): p.grad for n, p in module.named_parameters() if n[:2] == "3."}
    for name in ("up.weight", "up.bias", "down.weight", "down.bias"):
        assert grads[name].abs().max() > 0, name
    torch.testing.assert_close(grads["up.weight"][:4], -grads["up.weight"][4:])


def test_queries_share_a_group_of_halves() -> None:
    """Groups of heads are the halves: queries, keys and values repeat, the output's columns oppose."""
    model, _ = traced("llama")
    grown = meristem.grow(model, {"layers": 3}, method="cancel")
    new = {n: w for n, w in grown.state_dict().items() if n.startswith("model.layers.2.self_attn")}
    for name, w in new.items():
        last = "o_proj" in name
        one, two = w.chunk(2, dim=1 if last else 0)
        assert torch.equal(one, -two if last else two), name
        assert one.abs().max() > 0


@pytest.mark.parametrize("name", cases(NAMES))
def test_the_zoo_is_exact_or_says_why(name: str) -> None:
    model, inputs = traced(name)
    if name in REFUSED:
        with pytest.raises(NotPreserved, match=REFUSED[name]) as error:
            meristem.grow(model, deeper(model), method="cancel")
        assert 'method="identity"' in str(error.value)
        return
    grown = meristem.grow(model, deeper(model), method="cancel")
    assert algebra_error(model, grown, *inputs) <= LIMIT
    assert not grown.plan.added
    for stack_name, report in zip(model.stacks, grown.plan.notes, strict=True):
        assert report.startswith(stack_name)
        assert "halves that cancel" in report
    again = meristem.grow(grown, {"layers": "+2"}, method="cancel+lemon")
    assert algebra_error(grown, again, *inputs) <= LIMIT


@pytest.mark.parametrize(
    "name",
    [
        "two blocks",
        *(pytest.param(n, marks=pytest.mark.full) for n in ("llama", "t5", "convnext", "resnet")),
    ],
)
def test_verification(name: str) -> None:
    model = stack(8)[0] if name == "two blocks" else traced(name)[0]
    request = {"layers": "x2"}
    if name == "two blocks":
        request["mlp"] = "x1.5"  # widened first, then copied
    grown = meristem.grow(model, request, method="cancel+lemon", at="spread")
    report = meristem.verify(model, grown)
    assert report.ok, str(report)
    assert report.levels["training"].word in ("noise-floor", "bit-exact")
    assert "every new block learns" in str(report)


def test_verification_reads_the_recipes() -> None:
    """A half that is not what the plan says is found, although the function may stay."""
    model, _ = stack(8)
    grown = meristem.grow(model, {"layers": 3}, method="cancel")
    with torch.no_grad():
        grown.carrier.tensors["3.up.weight"][0, 0] += 1e-3
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word == "differs"


def test_equal_halves_would_be_found() -> None:
    """Level 3 looks for twins among the halves too: behind zeros in place of opposite halves they stay."""
    model, _ = stack(8)
    grown = meristem.grow(model, {"layers": 3}, method="cancel")
    grown.plan.clones["3.down.weight"] = ("2.down.weight", "0.0")
    with torch.no_grad():
        grown.carrier.tensors["3.down.weight"].zero_()
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word in ("bit-exact", "noise-floor")
    assert "new coordinates of 3.up.weight along axis 0 stay equal" in str(report)


@pytest.mark.full
def test_a_file_grows_by_the_same_plan(tmp_path: Any) -> None:
    model, inputs = traced("nanogpt")
    plan = meristem.plan(model, deeper(model), method="cancel")
    again = Plan.from_json(plan.to_json())
    assert again.clones == plan.clones
    small = model.save(tmp_path / "small.onnx")
    file = meristem.load(small)
    grown = meristem.grow(file, again)
    assert {h for _, h in grown.plan.clones.values()} >= {"copy", "0.0"}
    assert any(isinstance(made(h), Rebuilt) for _, h in grown.plan.clones.values())
    big = grown.save(tmp_path / "big.onnx")
    given = leaves(inputs)
    with torch.no_grad():
        reference = [[t.numpy() for t in leaves(model.module().double()(*given))]]
    assert deployment_ratio(small, big, reference, [given], optimised=True) <= 4


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (stack(1)[0], "no axis of two or more coordinates"),
        (stack(8, post=True)[0], "it is not proved that halves cancel"),
    ],
)
def test_refusals_name_the_method_that_works(model: Any, why: str) -> None:
    with pytest.raises(NotPreserved, match=why):
        meristem.plan(model, {"layers": 3}, method="cancel")
    assert meristem.plan(model, {"layers": 3}, method="identity").changes


def test_bad_options() -> None:
    with pytest.raises(MeristemError, match="the options of cancel are none"):
        meristem.plan(stack(8)[0], {"layers": 3}, method="cancel:noise=0.1")


class Probe(nn.Module):
    """One hidden layer with something in its way that halves may not survive."""

    def __init__(self, inner: Any, outer: Any) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        self.table, self.inner, self.outer = nn.Parameter(torch.randn(8)), inner, outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.down(self.inner(self.up(x), self.table)))


def same(y: torch.Tensor) -> torch.Tensor:
    return y


EXACT = {
    "a table": lambda h, t: torch.tanh(h + t) * t,
    "a turn": lambda h, t: torch.cat([h[:, 3:], h[:, :3]], -1),
    "a gate": lambda h, t: torch.cat([h[:, :4] * h[:, 4:], h[:, 4:]], -1),
    "steps": lambda h, t: torch.cat([h[:, ::2], h[:, 1::2]], -1),
    "a norm": lambda h, t: nn.functional.layer_norm(h, (8,)),
    "a share": lambda h, t: h / h.abs().sum(-1, keepdim=True),
}
NO_AXIS, NO_PROOF, NO_GRADIENT = "no axis of two or more", "not proved", "no gradient would pass"
LOST = {
    "a constant": (lambda h, t: h * torch.arange(8.0), same, NO_PROOF),
    "a pad": (lambda h, t: nn.functional.pad(h, (1, 0))[:, :8], same, NO_PROOF),
    "a roll": (lambda h, t: h.roll(1, -1), same, NO_AXIS),
    "a sum so far": (lambda h, t: h.cumsum(-1), same, NO_AXIS),
    "an order": (lambda h, t: h.sort(-1).values, same, NO_AXIS),
    "a relu behind": (lambda h, t: h, torch.relu, NO_GRADIENT),
    "a square behind": (lambda h, t: h, lambda y: y**2, NO_PROOF),
    "a quotient behind": (lambda h, t: h, lambda y: y / y.abs().sum(), NO_GRADIENT),
}


def probed(inner: Any, outer: Any) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    module = nn.Sequential(Probe(inner, outer), Probe(inner, outer)).eval()
    return meristem.trace(module, (x,)), x


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in EXACT])
def test_halves_survive(name: str) -> None:
    model, x = probed(EXACT[name], same)
    assert algebra_error(model, meristem.grow(model, {"layers": 3}, method="cancel"), x) <= LIMIT


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in LOST])
def test_halves_are_lost(name: str) -> None:
    inner, outer, why = LOST[name]
    model, _ = probed(inner, outer)
    with pytest.raises(NotPreserved, match=why):
        meristem.grow(model, {"layers": 3}, method="cancel")
