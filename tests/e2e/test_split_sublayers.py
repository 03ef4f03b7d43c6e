"""Splitting branch by branch, and by explicit scalars: by hand, in both carriers, on real classes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

import meristem
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.methods import method as method_of
from meristem.rewrite.split_sites import sites as measured
from meristem.verification_sides import subject
from tests.e2e.measure import algebra_error
from tests.e2e.test_split import sites
from tests.e2e.test_torch_zoo import traced
from tests.passes.mixtures import Mixture
from tests.zoo import build

SUBLAYERS, EXPLICIT = "split:by=sublayer", "split:scalars=explicit"
BOTH = "split:by=sublayer,scalars=explicit"


class Pair(nn.Module):
    """Two branches, one after another; ``spread`` is the size of what they add."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))
        self.second = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))
        with torch.no_grad():
            for last in (self.first[-1], self.second[-1]):
                last.weight.mul_(spread)
                last.bias.mul_(spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.first(x)
        return x + self.second(x)


def pairs(spread: float = 1.0) -> tuple[Any, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module, x = nn.Sequential(*(Pair(spread) for _ in range(3))).eval(), torch.randn(4, 8)
    return meristem.trace(module, (x,), dynamic_shapes=None), module, x


def steps(branch: Any, z: torch.Tensor, k: int) -> torch.Tensor:
    for _ in range(k):
        z = z + branch(z) / k
    return z


def in_runtime(path: Path, *inputs: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path))
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


@pytest.mark.parametrize(
    "method", [*(pytest.param(m, marks=pytest.mark.full) for m in (SUBLAYERS, EXPLICIT)), BOTH]
)
def test_by_hand_in_both_carriers(method: str, tmp_path: Path) -> None:
    target = 5  # block 2 is there once
    model, module, x = pairs()
    grown = meristem.grow(model, {"layers": target}, method=method)
    order = [i * 3 // target for i in range(target)]
    z, wide = x.double(), copy.deepcopy(module).double()
    with torch.no_grad():
        if method == EXPLICIT:
            for i in order:
                z = z + wide[i].first(z) / order.count(i)
                z = z + wide[i].second(z) / order.count(i)
        else:
            for i in range(3):
                z = steps(wide[i].first, z, order.count(i))
                z = steps(wide[i].second, z, order.count(i))
        got = grown.module().double()(x.double())
        narrow = grown.module()(x)
    torch.testing.assert_close(got, z, rtol=0, atol=1e-6)
    plan = meristem.Plan.from_json(grown.plan.to_json())
    small = meristem.load(model.save(tmp_path / "small.onnx"))
    there = meristem.grow(small, plan)
    file = in_runtime(there.save(tmp_path / "big.onnx"), x)
    torch.testing.assert_close(file, narrow, rtol=1e-4, atol=1e-5)


def test_scalars_are_parameters_and_leave_the_weights_alone() -> None:
    model, _, x = pairs()
    grown = meristem.grow(model, {"layers": 4}, method=BOTH)
    old, new = model.state_dict(), grown.state_dict()
    scalars = {n: float(t) for n, t in new.items() if n.rpartition(".")[2].startswith("scale")}
    assert scalars == {
        f"0.{branch}{copy}.scale": 0.5 for branch in ("first", "second") for copy in ("", "_grown1")
    }, "block 0 is there twice, the others once"
    assert all(torch.equal(new[n], old[n]) for n in old), "nothing is folded"
    assert all(torch.equal(new[n.replace("first.", "first_grown1.")], t) for n, t in old.items()
               if n.startswith("0.first"))  # fmt: skip
    module = grown.module()
    parameters = dict(module.named_parameters())
    module(x).square().sum().backward()
    assert all(parameters[n].grad.abs() > 0 for n in scalars)
    assert [a.split()[1].rstrip(",") for a in grown.plan.added] == [
        "0.first.scale", "0.first_grown1.scale", "0.second.scale", "0.second_grown1.scale",
    ]  # fmt: skip
    # What is scaled can be grown and split again: then 1/k is folded into the scalars.
    deeper = meristem.grow(grown, {"layers": "x2"})
    assert algebra_error(grown, deeper, x) <= 1e-10
    again = meristem.grow(grown, {"layers": "x2"}, method=SUBLAYERS)
    assert float(again.state_dict()["0.first.scale"]) == 0.25


@pytest.mark.parametrize("method", [SUBLAYERS, BOTH])
def test_small_branches_err_as_predicted_without_a_commutator(method: str) -> None:
    """(k - 1) / (2 k) J_f f at each sum, by autograd and by the report; the measured error follows."""
    model, module, x = pairs(0.01)
    k = 3
    grown = meristem.grow(model, {"layers": 3 * k}, method=method)
    report = meristem.verify(model, grown, runtime="torch", inputs=[(x,)])
    assert report.levels["algebra"].word == "approximate"
    found, z, at = sites(report), x.double(), 0
    assert len(found) == 6
    for block in module.double():
        for f in (block.first, block.second):
            step, along = torch.autograd.functional.jvp(f, z, f(z))
            by_hand = (k - 1) / (2 * k) * along.abs().max() / (z + step).abs().max()
            error = (steps(f, z, k) - z - step).abs().max() / (z + step).abs().max()
            assert found[at][0] == pytest.approx(by_hand.item(), rel=0.01)
            assert found[at][1] == pytest.approx(error.item(), rel=0.01)
            assert found[at][0] == pytest.approx(found[at][1], rel=0.05)
            z, at = z + step.detach(), at + 1
    assert "sub-layer 2 of block 0 of layers as 3" in str(report.levels["algebra"].notes)


# -- real classes, by hand ---------------------------------------------------------------------------


def _llama(layer: Any, h: torch.Tensor, **kw: Any) -> torch.Tensor:
    kw["past_key_values"] = None
    h = steps(lambda z: layer.self_attn(layer.input_layernorm(z), **kw)[0], h, 2)
    return steps(lambda z: layer.mlp(layer.post_attention_layernorm(z)), h, 2)


def _gpt2(layer: Any, h: torch.Tensor, *_: Any, **kw: Any) -> Any:
    mask = {"attention_mask": kw.get("attention_mask")}
    h = steps(lambda z: layer.attn(layer.ln_1(z), **mask)[0], h, 2)
    return steps(lambda z: layer.mlp(layer.ln_2(z)), h, 2)


def _bert(layer: Any, h: torch.Tensor, mask: Any = None, *_: Any, **kw: Any) -> Any:
    """The sums are split, and then their norms follow."""
    mask = kw.get("attention_mask", mask)
    own, out = layer.attention.self, layer.attention.output
    h = out.LayerNorm(steps(lambda z: out.dense(own(z, attention_mask=mask)[0]), h, 2))
    return layer.output.LayerNorm(steps(lambda z: layer.output.dense(layer.intermediate(z)), h, 2))


def _resnet(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The relu behind the sum comes once."""

    def branch(z: torch.Tensor) -> torch.Tensor:
        z = torch.relu(layer.bn1(layer.conv1(z)))
        z = torch.relu(layer.bn2(layer.conv2(z)))
        return layer.bn3(layer.conv3(z))

    return torch.relu(steps(branch, x, 2))


CLASSES = {
    "llama_tied": (_llama, lambda m: m.model.layers, {"layers": "x2"}),
    "gpt2": (_gpt2, lambda m: m.transformer.h, {"layers": "x2"}),
    "bert": (_bert, lambda m: m.bert.encoder.layer, {"layers": "x2"}),
    "resnet": (_resnet, lambda m: [m.layer1[1]], {"layers@layer1": 2}),
}


@pytest.mark.parametrize("method", [SUBLAYERS, BOTH])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in CLASSES])
def test_real_classes_by_hand(name: str, method: str, tmp_path: Path) -> None:
    forward, layers, sizes = CLASSES[name]
    module, args, kwargs = build(name)
    model = meristem.trace(module, args, kwargs, None)
    grown = meristem.grow(model, sizes, method=method)
    deep = grown.module().double()
    module = copy.deepcopy(module).eval().double()
    wide = [a.double() if a.is_floating_point() else a for a in args]
    for layer in layers(module):
        layer.forward = forward.__get__(layer)
    with torch.no_grad():
        got, expected = deep(*wide, **kwargs), module(*wide, **kwargs)
    got, expected = (
        y if isinstance(y, torch.Tensor) else next(iter(y.values())) for y in (got, expected)
    )
    # A Llama's norms are in float32 whatever its weights are.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 if name == "llama_tied" else 1e-9)
    small = meristem.load(model.save(tmp_path / "small.onnx"))
    there = meristem.grow(small, meristem.Plan.from_json(grown.plan.to_json()))
    with torch.no_grad():
        narrow = grown.module()(*args, **kwargs)
    narrow = narrow if isinstance(narrow, torch.Tensor) else next(iter(narrow.values()))
    file = in_runtime(there.save(tmp_path / "big.onnx"), *args, *kwargs.values())
    torch.testing.assert_close(file, narrow, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in CLASSES])
@pytest.mark.parametrize("method", [EXPLICIT, BOTH])
def test_verification(name: str, method: str) -> None:
    model, _, _ = traced(name)
    if name == "bert" and method == EXPLICIT:
        with pytest.raises(NotPreserved, match="follows its sums; use by=sublayer"):
            meristem.plan(model, {"layers": 4}, method=method)
        return
    grown = meristem.grow(model, CLASSES[name][2], method=method)
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "approximate"
    assert all(found > 0 for _, found in sites(report))
    assert "every new block learns" in str(report)


# -- mixtures ------------------------------------------------------------------------------------------


class Added(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(6), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(self.norm(x))


def routed() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(*(Added(Mixture("topk_softmax", "chosen")) for _ in range(2))).eval()
    return meristem.trace(net, (torch.randn(5, 6),), dynamic_shapes=None)


@pytest.mark.parametrize("by", ["block", "sublayer"])
def test_mixtures_are_refused_when_folded_and_split_by_scalars(by: str) -> None:
    model = routed()
    with pytest.raises(NotPreserved, match=r"not linear in weights.*use scalars=explicit"):
        meristem.plan(model, {"layers": 3}, method=f"split:by={by}")
    grown = meristem.grow(model, {"layers": 3}, method=f"split:by={by},scalars=explicit")
    report = meristem.verify(model, grown, runtime="torch")
    assert report.ok, str(report)
    ((_, found),) = sites(report)
    assert found > 0


@pytest.mark.full
def test_a_mixtral_is_split_by_scalars() -> None:
    module, args, kwargs = build("mixtral")
    model = meristem.trace(module, args, kwargs, None)
    with pytest.raises(NotPreserved, match=r"sub-layer 2 of block 0.*use scalars=explicit"):
        meristem.plan(model, {"layers": 4}, method=SUBLAYERS)
    grown = meristem.grow(model, {"layers": 4}, method=BOTH).module()
    # Counts of tokens have no semantics in the view: torch itself computes them.
    assert any(op.kind == "opaque" for op in model.graph.ops)
    own, targets = subject(model), dict.fromkeys(model.stacks.values(), 4)
    arrays = own.example().arrays
    found = measured(model.graph, model.equations, targets, method_of(BOTH), arrays, own.native())
    assert [s.unit.split(" of layers")[0] for s in found] == [
        f"sub-layer {part} of block {i}" for i in range(2) for part in (1, 2)
    ]
    assert found[3].predicted == pytest.approx(found[3].measured, rel=0.1)
    layers = copy.deepcopy(module).eval()
    for layer in layers.model.layers:
        layer.forward = _llama.__get__(layer)
    with torch.no_grad():
        got, expected = grown(*args, **kwargs), layers(*args, **kwargs)
    got, expected = (next(iter(y.values())) if isinstance(y, dict) else y for y in (got, expected))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


# -- moments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "share"), [(SUBLAYERS, 1.0), (EXPLICIT, 0.5), (BOTH, 0.5)])
def test_an_optimizer_goes_on(method: str, share: float) -> None:
    """The weight next to the sum: 1/k in it keeps its gradient, a scalar 1/k takes 1/k of it."""
    model, module, x = pairs()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.0)
    module(x).square().mean().backward()
    optimizer.step()
    model = meristem.trace(module, (x,), dynamic_shapes=None)
    larger = (grown := meristem.grow(model, {"layers": 6}, method=method)).module()
    carried = grown.optimizer(optimizer, module=larger)
    named = dict(larger.named_parameters())
    old = optimizer.state[module[0].first[3].weight]["exp_avg"]
    copy_ = "1.first.3.weight" if method == EXPLICIT else "0.first_grown1.3.weight"
    for name in ("0.first.3.weight", copy_):
        torch.testing.assert_close(carried.state[named[name]]["exp_avg"], share * old)
    scalars = {n for n in named if n.endswith("scale")}
    assert len(scalars) == (0 if method == SUBLAYERS else 12)
    assert {n for n, p in named.items() if p not in carried.state} == scalars


# -- what does not fit ---------------------------------------------------------------------------------


def test_bad_requests() -> None:
    model, _, _ = pairs()
    for method in ("split:by=head", "split:scalars=2", "split:order=whole"):
        with pytest.raises(
            MeristemError,
            match="the options of split are by=block, sublayer and scalars=folded, explicit",
        ):
            meristem.plan(model, {"layers": 6}, method=method)
    with pytest.raises(NotPreserved, match="scalars=explicit adds operators"):
        meristem.plan(model, {"layers": 6}, method=EXPLICIT, compensate="weights")
    assert meristem.plan(model, {"layers": 6}, method=SUBLAYERS, compensate="weights").approximate
    with pytest.raises(meristem.SizeError):
        meristem.plan(model, {"layers": 2}, method=SUBLAYERS)
