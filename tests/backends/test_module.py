"""The trainable module does what the program and the original module do, in both modes."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils import _pytree as pytree

from meristem.backends.module import TrainableModule, trainable_module
from meristem.frontends.trace import trace_module
from meristem.rewrite.errors import SizeError
from tests.backends.torch_models import MODELS, close, grown, run, same, tensors, traced
from tests.zoo import build, dynamic_shapes, inputs

QUICK = ("gpt2", "resnet", "torch_encoder_prenorm")
EVERY = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in MODELS]
)
NOISY = {"timm_vit", "resnet", "whisper"}
"""Train mode of the original draws numbers that are no dropout (stochastic depth, layer drop)."""


def fresh(name: str) -> TrainableModule:
    """A module of its own tensors."""
    return copy.deepcopy(trainable_module(traced(name)))


def seeded(module: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return run(module, args, kwargs)


@EVERY
def test_eval_is_the_program_bit_for_bit(name: str) -> None:
    module, program = trainable_module(traced(name)), traced(name).program.module()
    original, _, _ = build(name)
    for batch, seq in [(2, 7), (3, 5)]:
        args, kwargs = inputs(name, batch, seq, seed=1)
        assert same(run(module, args, kwargs), run(program, args, kwargs))
        close(run(module, args, kwargs), run(original, args, kwargs))
    assert type(module(*args, **kwargs)) is type(original(*args, **kwargs))


@EVERY
def test_state_dict_loads_into_the_original_class_and_back(name: str) -> None:
    module, (original, args, kwargs) = fresh(name), build(name, seed=1)
    expected = run(original, args, kwargs)
    assert list(dict(original.named_parameters())) == list(dict(module.named_parameters()))
    assert original.state_dict().keys() == module.state_dict().keys()
    module.load_state_dict(original.state_dict(), strict=True)
    close(run(module, args, kwargs), expected)
    other, _, _ = build(name, seed=2)
    other.load_state_dict(module.state_dict(), strict=True)
    assert same(run(other, args, kwargs), expected)


@EVERY
def test_copies_compute_the_same(name: str) -> None:
    module = trainable_module(traced(name))
    args, kwargs = inputs(name, 2, 7)
    expected = run(module, args, kwargs)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for twin in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(stream, weights_only=False),
        copy.deepcopy(pickle.loads(pickle.dumps(module))),
    ):
        assert type(twin).__mro__[1] is TrainableModule
        assert same(run(twin, args, kwargs), expected)
        assert list(twin.state_dict()) == list(module.state_dict())
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in module.named_parameters()]
        assert not any(m.training for m in twin.modules())
        assert not {p.data_ptr() for p in twin.parameters()} & {
            p.data_ptr() for p in module.parameters()
        }


@EVERY
def test_train_mode_draws_as_the_original_and_every_parameter_learns(name: str) -> None:
    module, (original, args, kwargs) = fresh(name), build(name)
    expected = run(module, args, kwargs)
    module.train()
    original.train()
    if name not in NOISY:
        close(seeded(module, args, kwargs), seeded(original, args, kwargs))
    if name in ("resnet", "llama"):
        assert not traced(name).dropouts
    else:
        assert not same(run(module, args, kwargs), run(module, args, kwargs))
    sum(t.float().square().sum() for t in tensors(module(*args, **kwargs))).backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    if name != "resnet":  # running statistics have moved
        assert same(run(module.eval(), args, kwargs), expected)


@EVERY
def test_runs_on_the_device_of_its_weights(name: str) -> None:
    """On fake CUDA tensors, which refuse operands of two devices as the real ones do."""
    module = trainable_module(traced(name))
    mode = FakeTensorMode()

    def cuda(t: Any) -> Any:
        return torch.empty(t.shape, dtype=t.dtype, device="cuda") if tensors(t) else t

    with mode:
        state = {
            k: cuda(t)
            for k, t in (
                *module.named_parameters(remove_duplicate=False),
                *module.named_buffers(remove_duplicate=False),
            )
        }
        args, kwargs = pytree.tree_map(cuda, inputs(name, 2, 7))
        # torch without CUDA cannot fake the update of running statistics
        for train in (False, True) if name != "resnet" else (False,):
            module.train(train)
            out = functional_call(module, state, args, kwargs, tie_weights=False)
            assert {t.device.type for t in tensors(out)} == {"cuda"}


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_follows_a_change_of_dtype(name: str, dtype: torch.dtype) -> None:
    module, (original, args, kwargs) = fresh(name), build(name)
    reference = run(copy.deepcopy(module).double(), *in_dtype(args, kwargs, torch.float64))
    module, original = module.to(dtype), original.to(dtype)
    args, kwargs = in_dtype(args, kwargs, dtype)
    own = distance(run(original, args, kwargs), reference)
    assert distance(run(module, args, kwargs), reference) <= 2 * own + 1e-6
    assert module.train()(*args, **kwargs) is not None


def in_dtype(args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
    def cast(t: Any) -> Any:
        return t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t

    return pytree.tree_map(cast, (args, kwargs))


def distance(got: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Largest error relative to the largest entry."""
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max())
        for a, b in zip(got, reference, strict=True)
    )


@pytest.mark.parametrize(
    "name",
    ["torch_encoder_prenorm"]
    + [pytest.param(n, marks=pytest.mark.full) for n in MODELS if n != "torch_encoder_prenorm"],
)
def test_compiles_as_one_graph(name: str) -> None:
    module, (args, kwargs) = fresh(name), inputs(name, 2, 7)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert same(run(compiled, args, kwargs), run(module, args, kwargs))
    module.train()
    close(seeded(compiled, args, kwargs), seeded(module, args, kwargs))


@pytest.mark.parametrize(
    "name",
    ["gpt2"] + [pytest.param(n, marks=pytest.mark.full) for n in MODELS if n != "gpt2"],
)
def test_can_be_traced_again_with_dynamic_shapes(name: str) -> None:
    module, (args, kwargs) = trainable_module(traced(name)), inputs(name, 2, 7)
    again = trace_module(module, args, kwargs, dynamic_shapes(name))
    assert again.tensors.keys() >= traced(name).program.state_dict.keys()
    assert sorted(again.dropouts.values()) == sorted(traced(name).dropouts.values())
    assert not again.lost
    args, kwargs = inputs(name, 3, 5, seed=1)
    close(run(again.program.module(), args, kwargs), run(module, args, kwargs))


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(n, marks=pytest.mark.full) for n in ("resnet", "t5"))]
)
def test_grown_program_trains(name: str) -> None:
    carrier, _ = grown(name)
    module, (original, args, kwargs) = copy.deepcopy(trainable_module(carrier)), build(name)
    close(run(module, args, kwargs), run(original, args, kwargs))
    assert module.state_dict().keys() == original.state_dict().keys()
    assert sum(p.numel() for p in module.parameters()) > sum(
        p.numel() for p in original.parameters()
    )
    module.train()
    sum(t.float().square().sum() for t in tensors(module(*args, **kwargs))).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_inputs_of_another_static_size_are_refused() -> None:
    carrier = trace_module(Folds(), (X,))
    module = trainable_module(trace_module(Folds(), (X,), None, None))
    assert trainable_module(carrier)(torch.cat([X, X])).shape == (8, 3)
    with pytest.raises(SizeError, match=r"input x has shape \(8, 3\).*dynamic_shapes"):
        module(torch.cat([X, X]))


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Folds(nn.Module):
    """A reshape whose static form would regroup another batch silently."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1).cumsum(1).reshape(x.shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["gpt2", "t5", "resnet"])
def test_trains_on_cuda(name: str) -> None:
    module, (args, kwargs) = fresh(name), inputs(name, 2, 7)
    expected = run(module, args, kwargs)
    module.to("cuda")
    args, kwargs = pytree.tree_map(lambda t: t.cuda(), (args, kwargs))
    close([t.cpu() for t in run(module, args, kwargs)], expected, 1e-3)
    sum(t.float().square().sum() for t in tensors(module.train()(*args, **kwargs))).backward()
    assert all(p.grad is not None for p in module.parameters())


class Normed(nn.Module):
    """Batch norms with and without a gain, one of them called twice, and dropout of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3)
        self.second = nn.BatchNorm1d(3, affine=False, momentum=0.3)
        self.drop = nn.Dropout(0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.second(self.drop(self.first(x)) * self.first(2 * x)))


def test_batch_norm_trains_as_the_original_does() -> None:
    original = Normed()
    module = trainable_module(trace_module(copy.deepcopy(original), (X,))).train()
    for step in range(3):
        x = X + step
        assert same(seeded(module, (x,), {}), seeded(original, (x,), {}))
    assert int(module.state_dict()["first.num_batches_tracked"]) == 6
    for name, value in original.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert same(run(module.eval(), (X,), {}), run(original.eval(), (X,), {}))
    for name in ("first", "second"):
        assert repr(module.get_submodule(name)) == repr(original.get_submodule(name))
    assert not [n for n in module.graph.nodes if n.op == "get_attr"]
    assert isinstance(module.drop, nn.Dropout)
    assert module.drop.p == 0.25


class Elsewhere(nn.Module):
    """A batch norm whose gain is another module's, and one whose gain is not learned."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fixed = nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3)
        self.gain = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        del self.fixed.weight
        self.fixed.register_buffer("weight", torch.tensor([3.0, 2.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.norm
        if self.training:
            own.num_batches_tracked.add_(1)
        y = nn.functional.batch_norm(
            x, own.running_mean, own.running_var, self.gain, None, self.training
        )
        return self.fixed(y)


def test_batch_norms_over_tensors_of_several_modules_train_too() -> None:
    original = Elsewhere()
    module = trainable_module(trace_module(copy.deepcopy(original), (X,))).train()
    for step in range(2):
        x = X + step
        assert same(seeded(module, (x,), {}), seeded(original, (x,), {}))
    for name, value in original.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert type(module.fixed) is nn.Module


def test_a_batch_norm_without_a_counter_loads_its_own_state() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.norm.num_batches_tracked = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    module = trainable_module(trace_module(Counted(), (X,)))
    module.load_state_dict(dict(module.state_dict()), strict=True)
    assert not isinstance(module.norm, nn.BatchNorm1d)


def test_train_mode_can_be_set_for_a_part() -> None:
    module = trainable_module(trace_module(Normed(), (X,)))
    module.train()
    module.drop.eval()
    module.first.eval()
    module.second.eval()
    expected = run(copy.deepcopy(module).eval(), (X,), {})
    assert same(run(module, (X,), {}), expected)
