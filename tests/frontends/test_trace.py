"""Tracing: shapes, names, train mode, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from meristem.backends.module import trainable_module
from meristem.frontends.torch_view import view_torch
from meristem.frontends.trace import trace_module
from meristem.frontends.trace_train import watch_train_mode
from meristem.rewrite.errors import CarrierError
from tests.backends.torch_models import close, run
from tests.zoo import build, inputs


@pytest.mark.parametrize(
    "name",
    ["bert", "timm_vit"]
    + [
        pytest.param(n, marks=pytest.mark.full) for n in ("gpt2", "clip", "t5", "resnet", "mixtral")
    ],
)
def test_auto_shapes_free_batch_and_sequence(name: str) -> None:
    module, args, kwargs = build(name)
    carrier = trace_module(module, args, kwargs)
    assert not module.training
    for size in [(3, 5), (5, 11)]:
        args, kwargs = inputs(name, *size, seed=1)
        close(run(carrier.program.module(), args, kwargs), run(module, args, kwargs))


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="tests.frontends.Pair")


class Structured(nn.Module):
    """Inputs in containers, keyword arguments in any order, a number and an absent one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self,
        pair: Pair,
        more: list[torch.Tensor],
        *rest: torch.Tensor,
        scale: float = 1.0,
        shift: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **named: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        x = self.linear(pair.left + pair.right) + sum(more) + sum(rest)
        x = x * scale + (named["extra"] if shift is None else shift)
        return {"x": x, "masked": x if mask is None else x * mask[:, None]}


def test_auto_shapes_in_every_structure() -> None:
    def given(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def x(*shape: int) -> torch.Tensor:
            return torch.randn(batch, *shape)

        args = (Pair(x(4), x(4)), [x(4), x(4)], x(4))
        return args, {"extra": x(4), "mask": x(), "shift": None, "scale": 2.0}

    module = Structured()
    carrier = trace_module(module, *given(3))
    assert all(isinstance(n.meta["val"].shape[0], torch.SymInt) for n in carrier.user_inputs())
    grown = trainable_module(carrier)
    args, kwargs = given(5)
    assert run(grown, args, kwargs)[0].shape == (5, 4)
    close(run(grown, args, kwargs), run(module, args, kwargs))
    assert grown(*args, **dict(reversed(kwargs.items()))).keys() == {"x", "masked"}


class Traced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 5), nn.Linear(5, 3)
        self.drop = nn.Dropout(0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.down(self.up(x).relu()))


def test_a_symbolically_traced_module_keeps_its_names() -> None:
    source = fx.symbolic_trace(Traced())
    carrier = trace_module(source, (torch.randn(2, 3),))
    assert carrier.program.state_dict.keys() == source.state_dict().keys()
    assert list(carrier.dropouts.values()) == [0.25]
    module = trainable_module(carrier)
    Traced().load_state_dict(module.state_dict(), strict=True)
    assert isinstance(module.drop, nn.Dropout)
    assert [w.name for w in view_torch(carrier).weights] == list(source.state_dict())
    x = torch.randn(7, 3)
    close(run(module, (x,), {}), run(source.eval(), (x,), {}))


class Uncommon(nn.Module):
    """Attention weights that eval mode does not drop, and noise that is no dropout."""

    def __init__(self, *, noise: bool = False, extra: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.register_buffer("count", torch.zeros(()))
        self.noise, self.extra = noise, extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count.add_(1)
        y = self.attention(x, x, x, need_weights=False)[0]
        if self.training and self.noise:
            y = y * torch.empty(len(x), 1, 1).bernoulli_(0.5)
        if self.training and self.extra:
            y = F.dropout(y, 0.2)
        return F.dropout(y, 0.1, self.training)


def test_train_mode_is_watched_and_left_alone() -> None:
    x = torch.randn(2, 3, 4)
    module = Uncommon().train()
    module.attention.eval()
    state = torch.random.get_rng_state()
    carrier = trace_module(module, (x,))
    assert sorted(carrier.dropouts.values()) == [0.1, 0.3]
    assert not carrier.lost
    assert module.training
    assert not module.attention.training
    assert int(module.count) == 0
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_train_mode_alone_does_is_listed() -> None:
    x = torch.randn(2, 3, 4)
    noisy = trace_module(Uncommon(noise=True), (x,))
    assert sorted(noisy.dropouts.values()) == [0.1, 0.3]
    assert noisy.lost == [
        "bernoulli (called 1 times in train mode): noise such as stochastic depth"
    ]
    more = trace_module(Uncommon(extra=True), (x,))
    assert sorted(more.dropouts.values()) == [0.1, 0.3]
    assert more.lost == ["dropouts that only train mode calls"]


class NeedsLabels(nn.Module):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        if self.training and labels is None:
            raise ValueError("labels are needed in train mode")
        return x.sin()


def test_train_mode_that_cannot_run_is_listed() -> None:
    carrier = trace_module(NeedsLabels(), (torch.randn(2, 3),))
    assert carrier.lost == [
        "what train mode alone does: it could not be run (labels are needed in train mode)"
    ]
    assert watch_train_mode(NeedsLabels().train(), (torch.ones(2),), {}).failure


class Selects(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0] * 2


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() if x.sum() > 0 else x.cos()


def test_shapes_and_branches_that_depend_on_data_are_refused() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(CarrierError, match=r"depends on data.*a mask instead of a selection"):
        view_torch(trace_module(Selects(), (x,)))
    branching = Branches().train()
    with pytest.raises(CarrierError, match=r"torch.export refused Branches.*exportable"):
        trace_module(branching, (x,))
    assert branching.training


class Cache:
    """A type of somebody's own, as caches of keys and values are."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


class ReturnsCache(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        return x.sin(), Cache(x)


class TakesCache(nn.Module):
    def forward(self, cache: Cache) -> torch.Tensor:
        return cache.tensor.sin()


@pytest.mark.parametrize("module", [ReturnsCache(), TakesCache()], ids=["returned", "taken"])
def test_types_unknown_to_export_are_refused_with_what_would_work(module: nn.Module) -> None:
    x = torch.randn(4, 3)
    with pytest.raises(
        CarrierError, match=r"Cache.*; inputs and outputs are tensors.*use_cache=False"
    ):
        trace_module(module, (Cache(x) if isinstance(module, TakesCache) else x,))


def test_an_example_may_be_a_view() -> None:
    """torch.export would guard the sizes of the tensor that it views."""
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).eval()
    tokens = torch.randint(0, 7, (3, 6))
    carrier = trace_module(module, (tokens[:, :-1],), {}, "auto")
    assert carrier.program.module()(tokens).shape == (3, 6, 3)
