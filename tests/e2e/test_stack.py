"""Stacks of blocks that compute at once: their orders, and that the error is what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import meristem
from meristem.rewrite.errors import MeristemError, SizeError
from meristem.rewrite.orders import ORDERS, copies
from tests.e2e.test_torch_zoo import traced
from tests.verify.models import spoil

# The layers of the published deeper models, recomputed by hand.
PUBLISHED = {
    # G_stack (arXiv:2405.15319 section 3): M o M o ... o M; the rest of a round is its beginning.
    "whole": [
        (3, 9, [0, 1, 2, 0, 1, 2, 0, 1, 2]),
        (6, 12, [*range(6), *range(6)]),
        (4, 6, [0, 1, 2, 3, 0, 1]),
    ],
    "interleave": [(3, 6, [0, 0, 1, 1, 2, 2]), (4, 6, [0, 0, 1, 2, 2, 3]), (2, 3, [0, 0, 1])],
    # MIDAS (arXiv:2409.19044): of k pieces of b layers the ceil(k/2)-th twice.
    "middle": [
        (4, 6, [0, 1, 0, 1, 2, 3]),
        (6, 8, [0, 1, 2, 3, 2, 3, 4, 5]),
        (9, 12, [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]),
        (3, 4, [0, 1, 1, 2]),
        (2, 4, [0, 1, 0, 1]),
    ],
    # SOLAR (arXiv:2312.15166): 32 layers, m = 8, layers 0 to 23 and 8 to 31.
    "overlap": [(32, 48, [*range(24), *range(8, 32)]), (4, 6, [0, 1, 2, 1, 2, 3])],
}  # fmt: skip


@pytest.mark.parametrize(("name", "n", "target", "order"), [
    (name, *case) for name, cases in PUBLISHED.items() for case in cases
])  # fmt: skip
def test_orders_are_the_published_ones(name: str, n: int, target: int, order: list[int]) -> None:
    assert ORDERS[name](n, target) == order
    deeper = list(range(n))
    for k, (position, source) in enumerate(copies(name, n, target)):
        deeper.insert(position + k, source)
    assert deeper == order, "the copies between the old blocks give the order"


def run(module: torch.nn.Module, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        out = module(*inputs)
    return out if isinstance(out, torch.Tensor) else next(iter(out.values()))


@pytest.mark.parametrize("order", ORDERS)
def test_a_stack_computes_its_blocks_in_the_order_and_says_its_error(order: str) -> None:
    model, args, kwargs = traced("nanogpt")
    target = 3 if order == "interleave" else 4
    grown = meristem.grow(model, {"layers": target}, method=f"stack:order={order}")
    deep, old = grown.module().double(), model.module().double()
    new, stored = deep.state_dict(), old.state_dict()
    for i, source in enumerate(ORDERS[order](2, target)):
        names = [n for n in stored if n.startswith(f"h.{source}.")]
        assert names
        for n in names:
            assert torch.equal(new[n.replace(f"h.{source}.", f"h.{i}.")], stored[n]), (i, n)
    inputs = tuple(kwargs.values()) or args
    expected, got = run(old, inputs), run(deep, inputs)
    report = meristem.verify(model, grown, runtime="torch", inputs=[inputs])
    verdict = report.levels["algebra"]
    assert verdict.word == "approximate"
    assert verdict.worst is not None
    assert verdict.worst.error == pytest.approx(float((got - expected).abs().max()), rel=1e-9)
    relative = float((got - expected).abs().max() / expected.abs().max())
    assert f"relative error {relative:.3g} " in verdict.reason
    assert report.ok
    assert "another function, as the plan says" in str(report)
    assert report.levels["deployment"].word in ("noise-floor", "bit-exact")
    assert "every new block learns, old gradients have no lift" in report.levels["training"].reason
    assert grown.plan.approximate == [f"layers@h 2 -> {target} in the order {order}"]


def test_a_wrong_weight_is_still_caught() -> None:
    model, _, _ = traced("nanogpt")
    grown = meristem.grow(model, {"layers": 4}, method="stack")
    spoil(grown, next(n for n in grown.carrier.tensors if n.startswith("h.3.")))
    report = meristem.verify(model, grown, runtime="torch")
    assert not report.ok
    assert report.levels["algebra"].word == "differs"


def test_a_plan_cannot_excuse_what_its_method_preserves() -> None:
    model, _, _ = traced("nanogpt")
    grown = meristem.grow(model, {"layers": 4})
    grown.plan.approximate.append("whatever")
    assert meristem.verify(model, grown, runtime="torch").levels["algebra"].word != "approximate"
    spoil(grown, next(n for n in grown.carrier.tensors if n.startswith("h.0.")), by=0.5)
    assert meristem.verify(model, grown, runtime="torch").levels["algebra"].word == "differs"


def test_a_stage_cannot_excuse_what_its_plan_preserves() -> None:
    """A plan says "preserve", and a stage of it stacks."""
    model, _, _ = traced("nanogpt")
    grown = meristem.grow(model, {"layers": 4}, method="stack")
    outside = meristem.Plan(dict(grown.plan.sizes))
    outside.join([grown.plan])
    grown.plan = outside
    report = meristem.verify(model, grown, runtime="torch")
    assert not report.ok
    assert report.levels["algebra"].word == "differs"


@pytest.mark.full
def test_width_and_depth_together_in_files_and_plans(tmp_path: Path) -> None:
    """The plan of a torch model binds to its file; both compute the same deeper model."""
    model, args, kwargs = traced("nanogpt")
    inputs = tuple(kwargs.values()) or args
    path = model.save(tmp_path / "small.onnx")
    plan = meristem.plan(model, {"mlp": "x1.5", "layers": 4}, method="lemon+stack")
    assert meristem.Plan.from_json(plan.to_json()) == plan
    there = meristem.grow(meristem.load(path), plan)
    assert there.plan.approximate
    here = meristem.grow(model, plan)
    report = meristem.verify(model, here, inputs=[inputs])
    assert [v.word for v in report.levels.values()] == ["approximate", "noise-floor", "noise-floor"]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(there.save(tmp_path / "big.onnx")))
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    (got,) = session.run(None, feeds)
    expected = run(here.module(), inputs)
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_alternate_are_stacked_by_periods() -> None:
    model, _, _ = traced("gemma2")
    (stack,) = (d for d in model.dimensions if d.kind == "layers")
    grown = meristem.grow(model, {"layers": "x2"}, method="stack:order=interleave")
    assert grown[stack.name].size == 2 * stack.size
    with pytest.raises(SizeError, match="repeat only every 2 blocks, so it"):
        meristem.plan(model, {"layers": "+1"}, method="stack")


def test_what_does_not_fit_says_what_does() -> None:
    model, _, _ = traced("nanogpt")
    for method, target, why in (
        ("stack:order=middle", 5, "possible: 3, 4"),
        ("stack:order=overlap", 3, "possible: 4"),
        ("stack:order=overlap", 6, "possible: 4"),
    ):
        with pytest.raises(SizeError, match=why):
            meristem.plan(model, {"layers": target}, method=method)
    with pytest.raises(SizeError, match="stack says itself where copies go"):
        meristem.plan(model, {"layers": 4}, method="stack", at="spread")
    with pytest.raises(MeristemError, match="order='random' is not known"):
        copies("random", 2, 4)
