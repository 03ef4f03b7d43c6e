"""Reading fx nodes: hints of symbolic sizes, dtypes, module places."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

# numpy-like names of torch dtypes, as the view uses them.
DTYPES: dict[torch.dtype, str] = {
    getattr(torch, name): name
    for name in (
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
        "complex64",
        "complex128",
    )
}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32; other dtypes keep torch's own spelling."""
    return DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def hint(x: Any) -> Any:
    """The traced number behind a symbolic one."""
    if isinstance(x, (torch.SymInt, torch.SymFloat)):
        got = x.node.hint
        if got is None:
            raise UnbackedSize(str(x))
        return int(got) if isinstance(x, torch.SymInt) else float(got)
    return x


class UnbackedSize(Exception):
    """A size that depends on data: no trace can give it a value."""


def shape_of(val: torch.Tensor) -> tuple[int, ...]:
    """Traced sizes of a tensor."""
    return tuple(int(hint(n)) for n in val.shape)


def number(x: Any) -> Any:
    """An argument as a Python number or list of numbers: nodes by the hint of their value."""
    if isinstance(x, fx.Node):
        return hint(x.meta["val"])
    if isinstance(x, (list, tuple)):
        return [number(v) for v in x]
    return hint(x)


def place_of(node: fx.Node) -> str:
    """The module path that called the operator, ``layers.0.attn``; empty where none is recorded."""
    stack = node.meta.get("nn_module_stack") or {}
    path = ""
    for where, _ in stack.values():
        if not where.startswith("_empty_nn_module_stack"):
            path = where
    return path.removeprefix("L['self'].").removeprefix("L__self__").lstrip(".")
