"""What a torch program computes on its way: values of nodes, and single nodes on given values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import InputKind

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.errors import CarrierError, UnsupportedOperator
from meristem.rewrite.graph import Array, Op


def watch(
    carrier: TorchCarrier, inputs: Sequence[Any], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The values of the nodes of these names, in eval mode and in the program's own precision; ``inputs``
    are its user inputs, flattened.

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


def compute(op: Op, arrays: Sequence[Array]) -> list[Array]:
    """What the node of an operator of the view gives for its operands, floats as they come (float64).

    Raises UnsupportedOperator where the node reads something else besides.
    """
    node: fx.Node = op.native
    if len(node.all_input_nodes) != len(arrays):
        raise UnsupportedOperator(f"{op.where} cannot be computed alone", place=op.place)
    tensors = (torch.from_numpy(np.array(a)) for a in arrays)
    given = dict(zip(node.all_input_nodes, tensors, strict=True))
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
    with torch.no_grad():
        got: Any = node.target(*args, **kwargs)  # type: ignore[operator]
    found = got if isinstance(got, (tuple, list)) else [got]
    return [t.numpy() for t in found if isinstance(t, torch.Tensor)]


__all__ = ["compute", "watch"]
