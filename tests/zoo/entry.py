"""What a zoo entry is, and how its weights are made uncomfortable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Shapes = dict[str, Any] | tuple[Any, ...] | None

VOCABULARY = 57
POSITIONS = 32


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    ``build(onnx=False)`` gives the untouched module; ``inputs(batch, seq, seed=0)`` valid random
    ``(args, kwargs)``; ``dynamic()`` the ``dynamic_shapes`` of torch.export, in the structure of
    the inputs. ``kinds`` are the growable kinds. ``exposed`` are those
    of them that reach an output of the real return type (``encoder_last_hidden_state``), so that
    the default boundary pins them.
    """

    name: str
    family: str
    build: Callable[..., nn.Module]
    inputs: Callable[..., Inputs]
    dynamic: Callable[[], Shapes]
    kinds: frozenset[str]
    exposed: frozenset[str] = frozenset()


def kinds(words: str) -> frozenset[str]:
    return frozenset(words.split())


SPLIT_HEADS = kinds("hidden mlp heads qk_dim value_dim layers")
"""Queries and keys can have another size than values."""
JOINT_HEADS = kinds("hidden mlp heads head_dim layers")
"""One view gives queries, keys and values the same head size."""


def token_ids(
    batch: int, seq: int, seed: int = 0, low: int = 3, high: int = VOCABULARY
) -> torch.Tensor:
    """Random ids; those below ``low`` are kept for padding, begin and end."""
    return torch.randint(low, high, (batch, seq), generator=torch.Generator().manual_seed(seed))


def images(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def padding_mask(batch: int, seq: int) -> torch.Tensor:
    """Row ``i`` is padded at its end by ``i`` tokens (at most half of them)."""
    lengths = seq - torch.arange(batch).clamp(max=seq // 2)
    return (torch.arange(seq) < lengths[:, None]).long()


def free(axes: int) -> dict[int, Any]:
    """The first ``axes`` axes dynamic."""
    return dict.fromkeys(range(axes), Dim.AUTO)


def randomise(module: nn.Module) -> None:
    """Overwrite every float parameter and running statistic, in order, from torch's generator.

    Fresh models hide errors: zero biases, unit gains and layer scales of 1e-6 make wrong graphs
    compute the right thing. Fixed tables (sinusoids, rotary frequencies, masks) stay.
    """
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.is_floating_point() and (weight.requires_grad or _constant(weight)):
                weight.copy_(_like_trained(name, weight))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "logits_bias")):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def _constant(weight: torch.Tensor) -> bool:
    return bool((weight == weight.flatten()[0]).all())


def _like_trained(name: str, weight: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(weight.shape)
    first = float(weight.flatten()[0])
    if weight.dim() >= 2 and not (_constant(weight) and first):
        return noise * _spread(weight)
    if name.endswith("bias") or not _constant(weight):
        return noise * 0.1
    if first == 0:  # Gemma's gains are 1 + weight, other zeros are gates and tokens
        return noise * 0.2
    if abs(first) < 0.5:  # a layer scale: large enough that its branch is seen
        return 0.7 + noise * 0.2
    return first + noise * 0.2


def _spread(weight: torch.Tensor) -> float:
    """About 1/sqrt(fan in), between 0.1 and 0.2."""
    fan_in = weight[0].numel() if weight.dim() > 2 else weight.shape[-1]
    return min(0.2, max(0.1, 1 / math.sqrt(fan_in)))
