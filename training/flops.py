"""FLOPs of one training step, by torch's own counter, and the names of what it does not count."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from meristem.rewrite.errors import MeristemError
from meristem.training.gradients import Loss, refuse_no_loss

aten = torch.ops.aten


def _flash(query: Any, key: Any, value: Any, *_args: Any, out_shape: Any = None, **_kw: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _flash_backward(grad: Any, query: Any, key: Any, value: Any, *_a: Any, **_kw: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _matrix_vector(matrix: Any, _vector: Any, *_args: Any, **_kw: Any) -> int:
    return 2 * int(matrix[0]) * int(matrix[1])


def _added_matrix_vector(_to: Any, matrix: Any, vector: Any, *_args: Any, **_kw: Any) -> int:
    return _matrix_vector(matrix, vector)


def _dot(left: Any, *_args: Any, **_kw: Any) -> int:
    return 2 * int(left[0])


# Operators that torch 2.13 counts nowhere; the formulas of attention are torch's own.
_MISSING: dict[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _flash,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _flash_backward,
    "mv": _matrix_vector,
    "addmv": _added_matrix_vector,
    "dot": _dot,
    "vdot": _dot,
}
# What is no product of matrices and costs in proportion to what it reads or writes; by convention these are
# not counted. Pointwise operators, reductions and views say so themselves, by torch's tags.
_LINEAR = """
    _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data _safe_softmax softmax
    native_layer_norm native_layer_norm_backward _fused_rms_norm _fused_rms_norm_backward
    native_batch_norm native_batch_norm_backward _native_batch_norm_legit batch_norm_backward
    _native_batch_norm_legit_functional _batch_norm_with_update native_group_norm
    native_group_norm_backward embedding embedding_dense_backward nll_loss_forward nll_loss_backward
    nll_loss2d_forward nll_loss2d_backward mse_loss mse_loss_backward cat stack split unbind chunk
    unsafe_split gather scatter scatter_add scatter_add_ scatter_ index index_put index_put_ index_add
    index_add_ index_select masked_fill masked_fill_ masked_scatter tril triu roll flip repeat clone
    copy_ copy _to_copy contiguous _unsafe_view _reshape_alias as_strided native_dropout
    native_dropout_backward bernoulli_ bernoulli cumsum max_pool2d_with_indices
    max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward _adaptive_avg_pool2d
    _adaptive_avg_pool2d_backward adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d
    constant_pad_nd select_backward slice_backward select_scatter slice_scatter topk sort argmax argmin
    max min one_hot bincount isfinite equal item _local_scalar_dense fill_ zero_ new_zeros new_ones
    new_empty new_full empty_like ones_like zeros_like full_like rand_like randn_like lift_fresh
    linalg_vector_norm sum mean var var_mean std amax amin logsumexp prod any all
"""
LINEAR = frozenset(_LINEAR.split())


@dataclass(frozen=True)
class Count:
    """FLOPs of one step. ``by`` splits them by operator; ``linear`` names the operators that are not
    counted by convention, with how many entries they returned; ``unknown`` those that may matter and have
    no formula. ``parameters`` counts the module's, shared ones once."""

    flops: int
    parameters: int
    by: Mapping[str, int] = field(default_factory=dict)
    linear: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)


def count_step(module: nn.Module, loss: Loss) -> Count:
    """FLOPs of one training step, forward and backward: of one call of ``loss`` and its gradients.

    ``loss`` is a function of a module that returns one number. A product of matrices [n, k] [k, m] is
    2 n k m FLOPs; the optimizer's update is not in it. Gradients, buffers and random numbers are as they
    were afterwards. Raises MeristemError where the loss is none.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    buffers = [(b, b.detach().clone()) for b in module.buffers()]
    seen = _Seen()
    custom = {getattr(aten, n): f for n, f in _MISSING.items() if hasattr(aten, n)}
    devices = sorted({p.device.index or 0 for p in trainable if p.device.type == "cuda"})
    counter = FlopCounterMode(display=False, custom_mapping=custom)
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), counter, seen:
            value = loss(module)
            refuse_no_loss(value)
            # autograd.grad leaves .grad alone, also in the middle of an accumulation.
            torch.autograd.grad(value, trainable, allow_unused=True)
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    counted = {_name(op): int(n) for op, n in counter.get_flop_counts().get("Global", {}).items()}
    rest = {n: c for n, c in seen.entries.items() if n not in counted}
    parameters = sum(p.numel() for p in module.parameters())
    linear = {n: c for n, c in rest.items() if n in seen.light}
    unknown = {n: c for n, c in rest.items() if n not in seen.light}
    return Count(sum(counted.values()), parameters, counted, linear, unknown)


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[Any, Count]] = weakref.WeakKeyDictionary()


def counted(module: nn.Module, loss: Loss, key: Any = None) -> Count:
    """``count_step``, once for a module.

    It is counted again where parameters have other shapes or do not train any more, the mode is another,
    or ``key`` is (give the batch's shape where batches differ).
    """
    form = tuple((tuple(p.shape), p.requires_grad) for p in module.parameters())
    known = _KNOWN.setdefault(module, {})
    place = (form, module.training, key)
    if place not in known:
        known[place] = count_step(module, loss)
    return known[place]


class _Seen(TorchDispatchMode):
    """Every operator that runs, with the entries that it returns; views and what makes tensors left out."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: Counter[str] = Counter()
        self.light: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and _reads(args):
            name = _name(func)
            first = out[0] if isinstance(out, (tuple, list)) and out else out
            self.entries[name] += first.numel() if isinstance(first, torch.Tensor) else 1
            tags = set(func.tags)
            if name in LINEAR or tags & {torch.Tag.pointwise, torch.Tag.reduction}:
                self.light.add(name)
        return out


def _reads(args: tuple[Any, ...]) -> bool:
    """Is a tensor among the arguments? What makes tensors of nothing reads none."""
    flat = (x for a in args for x in (a if isinstance(a, (list, tuple)) else (a,)))
    return any(isinstance(x, torch.Tensor) for x in flat)


def _name(op: Any) -> str:
    """``aten.mm.default`` and ``aten.mm`` as ``mm``."""
    text = str(op)
    return text.split(".")[1] if text.startswith("aten.") else text


def refuse_unknown(count: Count) -> None:
    """Raises MeristemError where operators ran that may matter and have no formula."""
    if count.unknown:
        raise MeristemError(
            f"not counted, for torch has no formula: {', '.join(count.unknown)}; the FLOPs are too low"
        )


__all__ = ["Count", "count_step", "counted", "refuse_unknown"]
