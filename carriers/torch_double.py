"""Retyping a torch carrier: weights, constants, casts and factories inside the program.

To float64 for what is exact, to a narrower type for a copy that is deployed in it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from meristem.carriers.torch_carrier import TorchCarrier

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def double_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every floating tensor in float64; tied names stay tied."""
    done: dict[int, torch.Tensor] = {}
    return {
        name: done.setdefault(id(t), t.detach().double() if t.dtype in _FLOATS else t.detach())
        for name, t in tensors.items()
    }


def double_module(
    carrier: TorchCarrier, tensors: dict[str, torch.Tensor] | None = None
) -> torch.nn.Module:
    """The program as a module that computes in float64 throughout.

    ``tensors`` replace the stored ones (recipes evaluated in float64); the default is the stored values.
    """
    module = _retyped(carrier, torch.float64)
    return _Runner(module, carrier, double_tensors(tensors or carrier.tensors))


def narrow_module(carrier: TorchCarrier, dtype: torch.dtype, outputs: list[int]) -> torch.nn.Module:
    """A copy of the program that computes in ``dtype`` throughout, as a module to run or compile.

    It is called with the program's user inputs in order, flattened (floating ones in ``dtype``), and gives
    a list of the outputs at the positions ``outputs``. Numbers beyond the range of the type become its
    largest ones, as ``finfo(dtype).min`` does in a mask that is written in that type.
    """
    done: dict[int, torch.Tensor] = {}
    tensors = {
        n: done.setdefault(id(t), narrowed(t.detach(), dtype)) for n, t in carrier.tensors.items()
    }
    return _Copy(_retyped(carrier, dtype), carrier, tensors, outputs)


def narrowed(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A floating tensor in ``dtype``; what is too large becomes the largest number, infinities stay."""
    if t.dtype not in _FLOATS:
        return t
    top = torch.finfo(dtype).max
    return torch.where(t.isfinite(), t.clamp(-top, top), t).to(dtype)


def _retyped(carrier: TorchCarrier, dtype: torch.dtype) -> torch.fx.GraphModule:
    """The program's graph with every floating type in it replaced."""
    module = copy.deepcopy(carrier.program.graph_module)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            if "_assert" in str(node.target):  # asserts of dtypes that are retyped here
                module.graph.erase_node(node)
                continue
            node.args = _replaced(node.args, dtype)
            node.kwargs = _replaced(node.kwargs, dtype)
            if _makes_floats(node):
                node.kwargs = {**node.kwargs, "dtype": dtype}
    module.recompile()
    return module


def _makes_floats(node: torch.fx.Node) -> bool:
    """A factory whose dtype is the default one (``eye``, ``ones`` without ``dtype``)."""
    schema = getattr(node.target, "_schema", None)
    val = node.meta.get("val")
    return (
        schema is not None
        and isinstance(val, torch.Tensor)
        and val.dtype in _FLOATS
        and node.kwargs.get("dtype") is None
        and any(a.name == "dtype" and a.kwarg_only for a in schema.arguments)
        and not any(isinstance(n.meta.get("val"), torch.Tensor) for n in node.all_input_nodes)
    )


def _replaced(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, torch.dtype):
        return dtype if x in _FLOATS else x
    if isinstance(x, float) and math.isfinite(x):
        top = torch.finfo(dtype).max
        return min(max(x, -top), top)
    if isinstance(x, (list, tuple)):
        return type(x)(_replaced(v, dtype) for v in x) if not hasattr(x, "_fields") else x
    if isinstance(x, dict):
        return {k: _replaced(v, dtype) for k, v in x.items()}
    return x


class _Runner(torch.nn.Module):
    """Calls the flat graph with stored tensors first, as its signature lists them."""

    def __init__(
        self, module: torch.fx.GraphModule, carrier: TorchCarrier, tensors: dict[str, torch.Tensor]
    ) -> None:
        super().__init__()
        self.module, self.carrier, self.tensors = module, carrier, tensors

    def forward(self, *inputs: Any) -> list[Any]:
        """``inputs``: the program's user inputs in order, flattened; floating ones become float64."""
        return list(self.module(*self.arguments(*inputs)))

    def arguments(self, *inputs: Any) -> list[Any]:
        """What the flat graph takes: stored tensors and inputs in the order of its signature."""
        flat = iter(inputs)
        stored = {node.name: name for node, name, _, _ in self.carrier.stored()}
        args = []
        for node, _ in self.carrier.placeholders():
            if node.name in stored:
                args.append(self.tensors[stored[node.name]])
            else:
                value = next(flat)
                floating = isinstance(value, torch.Tensor) and value.is_floating_point()
                args.append(value.double() if floating else value)
        return args


class _Copy(torch.nn.Module):
    """The same with its tensors registered, so that compilers and exporters find them."""

    def __init__(
        self,
        module: torch.fx.GraphModule,
        carrier: TorchCarrier,
        tensors: dict[str, torch.Tensor],
        outputs: list[int],
    ) -> None:
        super().__init__()
        self.module, self.chosen = module, outputs
        stored = {node.name: name for node, name, _, _ in carrier.stored()}
        self.order: list[str] = []
        numbers: dict[int, str] = {}
        for node, _ in carrier.placeholders():
            if node.name not in stored:
                self.order.append("")
                continue
            tensor = tensors[stored[node.name]]
            if id(tensor) not in numbers:
                numbers[id(tensor)] = f"stored_{len(numbers)}"
                self.register_buffer(numbers[id(tensor)], tensor)
            self.order.append(numbers[id(tensor)])

    def forward(self, *inputs: Any) -> list[Any]:
        flat = iter(inputs)
        args = [getattr(self, name) if name else next(flat) for name in self.order]
        results = self.module(*args)
        return [results[i] for i in self.chosen]
