"""Every kind of every model through the torch carrier: alone and all together, in float64.

Level 1 of verification: relative error at most 1e-10, recipes evaluated in float64 from the stored
weights, both programs retyped. Norm gains, biases and layer scales of the zoo are randomised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

import pytest

import meristem
from tests.e2e.measure import algebra_error, leaves
from tests.zoo import RELATED, ZOO, build, dynamic_shapes

LIMIT = 1e-10
SIX = (
    "mlp", "expert_mlp", "heads", "kv_heads", "group", "head_dim", "value_dim", "qk_dim", "hidden",
    "channels", "layers",
)  # fmt: skip
# In every test run; the others in the full one, since together they are grown in every run.
ALONE = ("bert", "convnext", "gpt2", "llama_tied", "mixtral", "resnet", "vit")


@lru_cache(maxsize=1)
def traced(name: str, dynamic: bool = False) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    module, args, kwargs = build(name)
    shapes = dynamic_shapes(name) if dynamic else None
    return meristem.trace(module, args, kwargs, shapes), args, kwargs


def kinds_of(model: Any) -> list[str]:
    """Kinds of sizes with something to grow: all but positions, rows of tables and experts."""
    return [
        k for k in SIX if any(d.kind == k and (d.growable or d.boundary) for d in model.dimensions)
    ]


def sizes(kind: str) -> str:
    return "+2" if kind == "layers" else "x1.5"


def free(model: Any, kind: str) -> dict[str, str]:
    """The kind as a selector, or the free ones of its dimensions by name where some are pinned."""
    own = [d for d in model.dimensions if d.kind == kind]
    if all(d.growable or d.boundary for d in own):
        return {kind: sizes(kind)}
    return {d.name: sizes(kind) for d in own if d.growable or d.boundary}


def boundary_of(model: Any, request: dict[str, str]) -> list[str]:
    """Where a requested dimension is an input or an output, both policies."""
    asked = {s.partition("@")[0].partition("#")[0] for s in request}
    exposed = any(d.boundary for d in model.dimensions if d.kind in asked)
    return ["crop", "grow"] if exposed else ["pin"]


def requests(model: Any) -> list[dict[str, str]]:
    """Every kind alone."""
    return [free(model, k) for k in kinds_of(model) if k != "group"]


def errors_of(name: str, wishes: Callable[[Any], list[dict[str, str]]]) -> dict[str, float]:
    """The error of each of these growths of a static trace."""
    model, args, kwargs = traced(name)
    errors = {}
    for request in wishes(model):
        policy = boundary_of(model, request)[0]
        grown = meristem.grow(model, request, boundary=policy)
        key = "+".join(request)
        errors[key] = algebra_error(model, grown, *leaves(args, kwargs))
        assert not grown.plan.saddles, (key, grown.plan.saddles)
    return errors


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in RELATED else n for n in sorted(ZOO)]
)
def test_all_kinds_together(name: str, record_property: Any) -> None:
    model, _, _ = traced(name)
    missing = ZOO[name].kinds & set(SIX) - {d.kind for d in model.dimensions}
    assert not missing, f"kinds of the class that the analysis does not find: {missing}"
    (error,) = errors_of(
        name, lambda model: [{k: v for r in requests(model) for k, v in r.items()}]
    ).values()
    record_property(f"{name}: float64", f"{error:.1e}")
    assert error <= LIMIT


@pytest.mark.parametrize(
    "name", [n if n in ALONE else pytest.param(n, marks=pytest.mark.full) for n in sorted(ZOO)]
)
def test_every_kind_alone(name: str, record_property: Any) -> None:
    errors = errors_of(name, requests)
    record_property(f"{name}: float64 alone", f"{max(errors.values()):.1e}")
    assert max(errors.values()) <= LIMIT, errors


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(n for n, e in ZOO.items() if e.exposed))
def test_an_exposed_hidden_size_grows_its_interface(name: str) -> None:
    model, _, _ = traced(name)
    exposed = {d.name: "x1.5" for d in model.dimensions if d.kind == "hidden"}
    with pytest.raises(meristem.PinnedDimension, match="boundary"):
        meristem.plan(model, exposed)
    grown = meristem.grow(model, exposed, boundary="grow")
    report = meristem.verify(model, grown, runtime="torch")
    assert report.levels["algebra"].word != "differs", str(report)
    assert report.levels["algebra"].word != "not checked", str(report)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(ZOO))
def test_any_order_of_calls(name: str) -> None:
    """Growths compose one after another, in an order drawn for each model; then all of them again."""
    model, _, _ = traced(name, dynamic=True)
    inputs = leaves(*ZOO[name].inputs(3, 5))
    kinds = [k for k in kinds_of(model) if k != "group"]
    order = Random(name).sample(kinds, len(kinds))
    step = model
    for kind in order:
        request = free(step, kind)
        grown = meristem.grow(step, request, boundary=boundary_of(step, request)[0])
        assert algebra_error(step, grown, *inputs) <= LIMIT, (kind, order)
        step = grown
    again = {k: v for kind in order for k, v in free(step, kind).items()}
    grown = meristem.grow(step, again, boundary=boundary_of(step, again)[0])
    assert algebra_error(step, grown, *inputs) <= LIMIT, order


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(ZOO))
def test_dynamic_shapes_stay_dynamic(name: str, record_property: Any) -> None:
    model, _, _ = traced(name, dynamic=True)
    request: dict[str, str] = {}
    for kind in kinds_of(model):
        if kind != "group":
            request |= free(model, kind)
    grown = meristem.grow(model, request, boundary=boundary_of(model, request)[0])
    assert [i.dynamic for i in grown.graph.inputs] == [i.dynamic for i in model.graph.inputs]
    errors = {
        size: algebra_error(model, grown, *leaves(*ZOO[name].inputs(*size)))
        for size in ((3, 5), (5, 11))
    }
    record_property(f"{name}: float64 dynamic", f"{max(errors.values()):.1e}")
    assert max(errors.values()) <= LIMIT, errors
