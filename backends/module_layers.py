"""What a trainable module calls besides ATen: layers that know train mode, helpers that follow it.

Everything here is importable and picklable by name, traceable by torch.compile and torch.export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from meristem.rewrite.errors import SizeError


class FusedAttention(nn.Module):
    """``scaled_dot_product_attention`` with dropout of the attention weights in train mode.

    Shapes as in ``torch.nn.functional.scaled_dot_product_attention``: query [..., L, E],
    key [..., S, E], value [..., S, Ev] -> [..., L, Ev].
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, p, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def extra_repr(self) -> str:
        return f"p={self.p}"


class RunningNorm(nn.Module):
    """Batch norm over tensors that live elsewhere: [N, C, ...] -> [N, C, ...], statistics [C].

    In train mode the batch's statistics normalise and the running ones are updated in place, as
    nn.BatchNorm does; in eval mode the running ones normalise. ``rank`` is the operand's number of axes.
    """

    def __init__(self, momentum: float, eps: float, rank: int) -> None:
        super().__init__()
        self.momentum, self.eps, self.rank = momentum, eps, rank

    def forward(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        var: torch.Tensor,
        tracked: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.training and tracked is not None:
            tracked.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, eps={self.eps}"


def device_of(x: torch.Tensor) -> torch.device:
    """Where factories of the graph put their results: where the anchor is."""
    return x.device


def dtype_of(x: torch.Tensor) -> torch.dtype:
    """The dtype that casts to the traced weights' dtype follow."""
    return x.dtype


def same_dtype(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``x`` in the dtype of ``like``; itself where they agree.

    Narrowing keeps the most negative finite number finite: a mask of -3.4e38 in float16 is -65504,
    so that a row that is masked everywhere stays a number.
    """
    if x.dtype == like.dtype:
        return x
    if torch.finfo(like.dtype).max < torch.finfo(x.dtype).max:
        return x.clamp(min=torch.finfo(like.dtype).min).to(like.dtype)
    return x.to(like.dtype)


def check_sizes(x: Any, name: str, sizes: tuple[int | None, ...]) -> None:
    """Refuse an input whose sizes the trace has fixed otherwise; None is free.

    Raises SizeError: a static reshape would otherwise regroup the elements of such an input.
    """
    if x.dim() != len(sizes) or any(
        want is not None and have != want for have, want in zip(x.shape, sizes, strict=True)
    ):
        shown = ", ".join("any" if n is None else str(n) for n in sizes)
        raise SizeError(
            f"input {name} has shape {tuple(x.shape)}, the trace fixed ({shown}); trace the model "
            'with dynamic_shapes="auto" to use other sizes',
            name=name,
        )
