"""Re-propagating fake tensors through an edited fx graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode


def fake_mode_of(graph: fx.Graph) -> FakeTensorMode:
    """The mode whose shape environment holds the program's symbols."""
    for node in graph.nodes:
        val = node.meta.get("val")
        if isinstance(val, torch.Tensor) and hasattr(val, "fake_mode"):
            return val.fake_mode  # type: ignore[no-any-return]
    return FakeTensorMode()


def fake_like(mode: FakeTensorMode, tensor: torch.Tensor, *, parameter: bool) -> Any:
    """A fake stand-in for a stored tensor."""
    with mode:
        fake = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)
        return torch.nn.Parameter(fake, tensor.requires_grad) if parameter else fake


def propagate(graph: fx.Graph, mode: FakeTensorMode) -> None:
    """Recompute ``meta['val']`` of every call from those of its operands.

    Placeholders must carry theirs already. Shapes that do not fit raise the operator's own error.
    """

    def value(x: Any) -> Any:
        return x.meta["val"] if isinstance(x, fx.Node) else x

    for node in graph.nodes:
        if node.op != "call_function":
            continue
        args = fx.node.map_arg(node.args, value)
        kwargs = fx.node.map_arg(node.kwargs, value)
        # Inner calls of composite kernels take symbolic sizes only under the Python dispatcher.
        with mode, enable_python_dispatcher():
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]
        node.meta.pop("tensor_meta", None)
