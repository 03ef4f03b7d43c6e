"""What a torch program computes on its way: values of nodes, in eval mode and in its own precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.errors import CarrierError


def watch(
    carrier: TorchCarrier, inputs: Sequence[Any], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The values of the nodes of these names; ``inputs`` are the program's user inputs, flattened.

    Raises CarrierError where there is no such node.
    """
    known = {n.name for n in carrier.graph.nodes}
    missing = [n for n in names if n not in known]
    if missing:
        raise CarrierError(
            f"{missing[0]} is inside of an operator of the program", value=missing[0]
        )
    given, tensors = iter(inputs), carrier.tensors
    flat = [
        next(given) if spec.kind is InputKind.USER_INPUT else tensors[spec.target]
        for _, spec in carrier.placeholders()
    ]
    keeper = _Keeper(carrier.program.graph_module, set(names))
    with torch.no_grad():
        keeper.run(*flat)
    return keeper.kept


class _Keeper(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names = names
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the node says; its value is kept where it is watched."""
        value = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = value
        return value


__all__ = ["watch"]
