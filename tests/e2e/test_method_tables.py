"""A method is an entry of a table: nothing else knows its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import meristem
from meristem import method_depth, method_hooks
from meristem.rewrite import methods
from meristem.rewrite.errors import MeristemError
from tests.e2e.measure import algebra_error
from tests.training.test_learned_depth import X, net


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tables that forget what is added."""
    for module, name in (
        (methods, "METHODS"),
        (method_hooks, "HOOKS"),
        (method_depth, "DEPTHS"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setattr(methods, "DEPTH", (*methods.DEPTH, "mine"))
    return monkeypatch


def test_a_method_of_width_is_an_entry(tables: Any) -> None:
    added = methods.Method("own", "as zero", ("zero",), ("zero",))
    methods.METHODS["own"] = added
    model = net()
    ours = meristem.grow(model, {"mlp": 7}, method="own").state_dict()
    theirs = meristem.grow(model, {"mlp": 7}, method="zero").state_dict()
    assert all(torch.equal(w, theirs[n]) for n, w in ours.items())
    seen = []

    def changes(growth: Any, script: Any, method: Any, supplied: Any) -> None:
        seen.append((method.name, len(script.weights)))
        growth.plan.approximate.append("says so")

    method_hooks.HOOKS["own"] = method_hooks.Hooks(changes=changes)
    grown = meristem.grow(model, {"mlp": 7}, method="own")
    assert seen == [("own", 6)]
    assert grown.plan.approximate == ["says so"]


def test_a_method_of_depth_is_an_entry(tables: Any) -> None:
    model = net()
    method_depth.DEPTHS["mine"] = method_depth.DepthHooks(at="has no place here")
    grown = meristem.grow(model, {"layers": 3}, method="mine")
    assert algebra_error(model, grown, X[:4]) <= 1e-10
    with pytest.raises(MeristemError, match="at='spread' has no place here"):
        meristem.plan(model, {"layers": 3}, method="mine", at="spread")


def test_every_method_of_depth_has_its_entry() -> None:
    assert set(methods.DEPTH) | set(methods.COPIED) == set(method_depth.DEPTHS)
    assert set(method_hooks.HOOKS) <= set(methods.METHODS)


def test_copies_that_zeros_sum_are_locked_and_said() -> None:
    """Shares part copies, and in a new block that is the identity there is nothing to share."""
    model = net()
    for method, locked in (
        ("lemon", ["blocks.2.up.weight", "blocks.2.up.bias"]),
        ("lemon+identity:insides=fresh", []),
        ("lemon+cancel", []),
    ):
        grown = meristem.grow(model, {"mlp": 7, "layers": 3}, method=method)
        assert grown.plan.locked == locked, method
        report = meristem.verify(model, grown, runtime="torch")
        assert report.ok, str(report)
        assert ("twins stay equal" in report.levels["training"].reason) == bool(locked)
