"""What a module does in train mode that its eval trace does not carry: dropouts and noise.

One forward pass in train mode, without gradients, on the example inputs; no weight is copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

DROPOUT, ATTENTION = "dropout", "attention"
# Noise that is no dropout: stochastic depth, layer drop, jitter of routers.
_NOISE = {
    torch.bernoulli: "bernoulli",
    torch.Tensor.bernoulli: "bernoulli",
    torch.Tensor.bernoulli_: "bernoulli",
    torch.rand: "rand",
    torch.rand_like: "rand",
    torch.randn: "randn",
    torch.randn_like: "randn",
    torch.normal: "normal",
    torch.Tensor.normal_: "normal",
    torch.Tensor.uniform_: "uniform",
    torch.Tensor.exponential_: "exponential",
    torch.multinomial: "multinomial",
    F.dropout1d: "dropout1d",
    F.dropout2d: "dropout2d",
    F.dropout3d: "dropout3d",
    F.alpha_dropout: "alpha_dropout",
    F.feature_alpha_dropout: "feature_alpha_dropout",
}
_FUSED = F.scaled_dot_product_attention
_PLAIN = F.dropout


@dataclass
class TrainMode:
    """``calls``: (kind, probability) of dropouts and fused attentions in order; ``noise``: others.

    ``failure`` says why train mode could not be run; then the others are empty.
    """

    calls: list[tuple[str, float]] = field(default_factory=list)
    noise: Counter[str] = field(default_factory=Counter)
    failure: str = ""

    def probabilities(self, kinds: list[str]) -> list[float] | None:
        """Probabilities for eval-mode calls of these kinds, in order; None where modes differ."""
        if [kind for kind, _ in self.calls] == kinds:
            return [p for _, p in self.calls]
        return None

    def attentions(self) -> list[float]:
        return [p for kind, p in self.calls if kind == ATTENTION]

    def dropouts(self) -> list[float]:
        return [p for kind, p in self.calls if kind == DROPOUT and p]


class _Watch(TorchFunctionMode):
    """Notes calls; functions written in Python are watched through what they call in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = TrainMode()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _FUSED:
            self._attention(args, kwargs)
        elif func in (_PLAIN, torch.dropout):
            self._dropout(func, args, kwargs)
        elif func in _NOISE:
            if func is torch.rand and args and args[0] in ((), []):
                # one number decides on a branch of Python: layer drop, which keeps the layer then
                return torch.ones((), device=kwargs.get("device"), dtype=kwargs.get("dtype"))
            self.seen.noise[_NOISE[func]] += 1
        elif getattr(func, "__module__", "") == F.__name__:
            with self._inside():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(self, args: Any, kwargs: Any) -> None:
        p = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
        self.seen.calls.append((ATTENTION, float(p)))

    def _dropout(self, func: Any, args: Any, kwargs: Any) -> None:
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        train = args[2] if len(args) > 2 else kwargs.get("training", kwargs.get("train", True))
        self.seen.calls.append((DROPOUT, float(p) if train else 0.0))

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """torch switches the mode off within a function; its globals are watched instead."""

        def fused(*args: Any, **kwargs: Any) -> Any:
            self._attention(args, kwargs)
            return _FUSED(*args, **kwargs)

        def plain(*args: Any, **kwargs: Any) -> Any:
            self._dropout(_PLAIN, args, kwargs)
            return _PLAIN(*args, **kwargs)

        with (
            mock.patch.object(F, "scaled_dot_product_attention", fused),
            mock.patch.object(F, "dropout", plain),
        ):
            yield


def watch_train_mode(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TrainMode:
    """Run ``module`` once on the example inputs and note what it draws.

    The module must be in train mode already. Its buffers are replaced by copies meanwhile (running
    statistics do not move), parameters are only read, random states are restored.
    """
    buffers = {n: b.clone() for n, b in module.named_buffers(remove_duplicate=False)}
    tensors = [*module.parameters(), *module.buffers()]
    cuda = sorted({t.get_device() for t in tensors if t.is_cuda})
    watch = _Watch()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda), watch:
            functional_call(module, buffers, args, kwargs, tie_weights=False)
    except (
        Exception
    ) as error:  # train mode is the user's code and may need what is not there: labels
        lines = str(error).strip().splitlines()
        return TrainMode(failure=lines[0] if lines else type(error).__name__)
    return watch.seen
