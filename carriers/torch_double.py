"""Retyping a torch carrier to float64: weights, constants, casts and factories inside the program."""

from __future__ import annotations

import copy
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
    program = carrier.program
    module = copy.deepcopy(program.graph_module)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            if "_assert" in str(node.target):  # asserts of dtypes that are retyped here
                module.graph.erase_node(node)
                continue
            node.args = _double(node.args)
            node.kwargs = _double(node.kwargs)
            if _makes_floats(node):
                node.kwargs = {**node.kwargs, "dtype": torch.float64}
    module.recompile()
    return _Runner(module, carrier, double_tensors(tensors or carrier.tensors))


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


def _double(x: Any) -> Any:
    if isinstance(x, torch.dtype):
        return torch.float64 if x in _FLOATS else x
    if isinstance(x, (list, tuple)):
        return type(x)(_double(v) for v in x) if not hasattr(x, "_fields") else x
    if isinstance(x, dict):
        return {k: _double(v) for k, v in x.items()}
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
