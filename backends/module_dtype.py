"""Keeping dtypes together after ``module.to(dtype)``.

A graph that was traced in float32 says float32 wherever the model made a table or a mask. Those
stay, as they do in the model; where they meet the weights' dtype in an operator that does not
promote, they are cast to it. Only operands that can differ get a cast, found by one pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from meristem.backends.module_layers import FusedAttention, RunningNorm, dtype_of, same_dtype
from meristem.carriers.torch_carrier import TorchCarrier

# Operands that must agree, the deciding ones first.
_AGREE: dict[str, tuple[str, ...]] = {
    "linear": ("weight", "input", "bias"),
    "conv1d": ("weight", "input", "bias"),
    "conv2d": ("weight", "input", "bias"),
    "conv3d": ("weight", "input", "bias"),
    "conv_transpose1d": ("weight", "input", "bias"),
    "conv_transpose2d": ("weight", "input", "bias"),
    "convolution": ("weight", "input", "bias"),
    "layer_norm": ("weight", "input", "bias"),
    "rms_norm": ("weight", "input"),
    "group_norm": ("weight", "input", "bias"),
    "addmm": ("mat2", "mat1", "self"),
    "baddbmm": ("batch2", "batch1", "self"),
    "mm": ("mat2", "self"),
    "bmm": ("mat2", "self"),
    "mv": ("vec", "self"),
    "matmul": ("other", "self"),
    "prelu": ("weight", "self"),
    "scaled_dot_product_attention": ("value", "query", "key", "attn_mask"),
}
# How a floating value gets its dtype after a cast of the whole module.
FREE, MODEL, TABLE, MIXED = "buffer", "model", "table", "mixed"


def settle_dtypes(graph: fx.Graph, root: nn.Module, carrier: TorchCarrier) -> None:
    """Insert ``same_dtype`` where an operand of fixed dtype meets one that follows the weights."""
    _Settler(graph, root, carrier).run()


class _Settler:
    def __init__(self, graph: fx.Graph, root: nn.Module, carrier: TorchCarrier) -> None:
        self.graph, self.root = graph, root
        self.tensors = carrier.tensors
        self.values = {n.name: n.meta.get("val") for n in carrier.graph.nodes}
        self.state: dict[fx.Node, str] = {}

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "placeholder":
                self._note(node, MODEL if _floating(self.values.get(node.name)) else None)
            elif node.op == "get_attr":
                tensor = self.tensors.get(str(node.target))
                kind = MODEL if isinstance(tensor, nn.Parameter) else FREE
                self._note(node, kind if _floating(tensor) else None)
            elif node.op == "call_module":
                self._layer(node)
            elif node.op == "call_function":
                self._call(node)

    def _note(self, node: fx.Node, state: str | None) -> None:
        if state is not None:
            self.state[node] = state

    def _layer(self, node: fx.Node) -> None:
        layer = self.root.get_submodule(str(node.target))
        if isinstance(layer, FusedAttention):
            q, k, v, mask, *_ = node.args
            self._note(node, self._agree(node, [v, q, k, mask]))
        elif isinstance(layer, RunningNorm):
            self._note(node, self._agree(node, [node.args[3], node.args[0]]))
        else:
            self._note(node, self.state.get(node.args[0]))  # type: ignore[arg-type]

    def _call(self, node: fx.Node) -> None:
        states = [self.state[n] for n in node.all_input_nodes if n in self.state]
        given = [x for x in (*node.args, node.kwargs.get("dtype")) if _is_dtype(x)]
        dtype = given[0] if given else None
        if isinstance(dtype, torch.dtype):
            self._note(node, TABLE if dtype.is_floating_point else None)
            return
        schema = getattr(node.target, "_schema", None)
        name = schema.name.partition("::")[2] if schema is not None else ""
        if isinstance(dtype, fx.Node):
            self._note(node, MODEL)
        elif name in _AGREE:
            place = {a.name: i for i, a in enumerate(schema.arguments)}
            got = [
                node.args[i] if (i := place[key]) < len(node.args) else node.kwargs.get(key)
                for key in _AGREE[name]
            ]
            self._note(node, self._agree(node, got))
        elif self._is_floating(node):
            self._note(node, _meet(states) if states else TABLE)

    def _is_floating(self, node: fx.Node) -> bool:
        val = self.values.get(node.name)
        if isinstance(val, (list, tuple)):
            return any(_floating(v) for v in val)
        return _floating(val)

    def _agree(self, node: fx.Node, operands: list[Any]) -> str | None:
        """Cast the operands that may differ to the deciding one; the state of the result."""
        nodes = [n for n in operands if isinstance(n, fx.Node) and n in self.state]
        if not nodes:
            return None
        states = {self.state[n] for n in nodes}
        if states <= {FREE, MODEL}:
            return _meet(list(states))
        if states == {TABLE}:
            return TABLE
        order = (MODEL, MIXED, TABLE, FREE)
        reference = min(nodes, key=lambda n: order.index(self.state[n]))
        for n in dict.fromkeys(nodes):
            if n is not reference and (
                self.state[n] != self.state[reference] or self.state[n] == MIXED
            ):
                with self.graph.inserting_before(node):
                    cast = self.graph.call_function(same_dtype, (n, reference))
                node.replace_input_with(n, cast)
        return self.state[reference]


def _meet(states: list[str]) -> str:
    """The state of a promoting operator's result."""
    seen = set(states)
    if len(seen) == 1:
        return seen.pop()
    if seen == {FREE, MODEL}:
        return MODEL
    if seen == {FREE, TABLE}:
        return TABLE
    return MIXED


def _is_dtype(x: Any) -> bool:
    return isinstance(x, torch.dtype) or (isinstance(x, fx.Node) and x.target is dtype_of)


def _floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()
