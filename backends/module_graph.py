"""From the lifted graph of a program to the graph of a trainable module.

Stored inputs become attributes, dropouts and batch norms become layers that know train mode,
devices follow the weights, checks of metadata go.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from meristem.backends.module_layers import (
    FusedAttention,
    RunningNorm,
    check_sizes,
    device_of,
    dtype_of,
)
from meristem.carriers.aten_values import place_of
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.errors import CarrierError

aten = torch.ops.aten
_DROPPED = (aten._assert_tensor_metadata.default,)
_MUTATIONS = (
    OutputKind.BUFFER_MUTATION,
    OutputKind.PARAMETER_MUTATION,
    OutputKind.USER_INPUT_MUTATION,
)


class ModuleGraph:
    """Builds the graph and registers what it calls on ``root``, which holds the tensors already."""

    def __init__(self, carrier: TorchCarrier, root: nn.Module) -> None:
        self.carrier, self.root = carrier, root
        self.graph = fx.Graph()
        self.new: dict[fx.Node, Any] = {}
        self.stored = {node: name for node, name, _, _ in carrier.stored()}
        self.followed: dict[Any, fx.Node] = {}
        self.inputs: list[fx.Node] = []
        self.anchor = self._find_anchor()

    def build(self) -> fx.Graph:
        """The graph, with the calling convention of the traced module."""
        self._placeholders()
        for node in self.carrier.graph.nodes:
            if node.op == "call_function" and node.target not in _DROPPED:
                self.new[node] = self._call(node)
            elif node.op == "get_attr":
                self._attribute(node)
            elif node.op == "output":
                self._output(node)
        entry = self.carrier.program.module_call_graph[0].signature
        names = list(entry.forward_arg_names or [])
        self.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, entry.in_spec, entry.out_spec)))
        self.graph.lint()
        return self.graph

    # -- inputs -----------------------------------------------------------------------------------

    def _find_anchor(self) -> fx.Node | None:
        """The tensor whose device factories follow: the first used parameter, else any tensor."""
        tensors = self.carrier.tensors
        used = [n for n in self.stored if n.users]
        floating = [n for n in used if tensors[self.stored[n]].is_floating_point()]
        parameters = [n for n in floating if isinstance(tensors[self.stored[n]], nn.Parameter)]
        ranked = [*parameters, *floating, *used, *self.carrier.user_inputs()]
        return ranked[0] if ranked else None

    def _placeholders(self) -> None:
        for node, spec in self.carrier.placeholders():
            if spec.kind is InputKind.USER_INPUT:
                self.new[node] = self.graph.placeholder(node.name)
                self.inputs.append(node)
            elif node not in self.stored:
                raise CarrierError(
                    f"input {node.name} of the program is a {spec.kind.name.lower()}, which a "
                    "module cannot hold; save the program itself (.pt2)",
                    name=node.name,
                )
        for node in self.inputs:
            val = node.meta.get("val")
            if isinstance(val, torch.Tensor):
                sizes = tuple(n if isinstance(n, int) else None for n in val.shape)
                if any(n is not None for n in sizes):
                    self.graph.call_function(check_sizes, (self.new[node], node.name, sizes))
        for node, name in self.stored.items():
            if node.users or node is self.anchor:
                self.new[node] = self.graph.create_node("get_attr", name, name=node.name)

    # -- calls ------------------------------------------------------------------------------------

    def _value(self, x: Any) -> Any:
        return fx.node.map_arg(x, lambda n: self.new[n])

    def _call(self, node: fx.Node) -> Any:
        if node.name in self.carrier.dropouts:
            return self._dropout(node, self.carrier.dropouts[node.name])
        if node.target is aten._native_batch_norm_legit_no_training.default:
            return self._batch_norm(node)
        if node.target is operator.getitem and isinstance(self.new[node.args[0]], _First):
            return self.new[node.args[0]].node
        args = tuple(self._follow(v) for v in self._value(node.args))
        kwargs = {k: self._follow(v) for k, v in self._value(node.kwargs).items()}
        new = self.graph.create_node("call_function", node.target, args, kwargs, node.name)
        return self._placed(new, node)

    def _placed(self, new: fx.Node, node: fx.Node) -> fx.Node:
        if "nn_module_stack" in node.meta:
            new.meta["nn_module_stack"] = dict(node.meta["nn_module_stack"])
        return new

    def _follow(self, value: Any) -> Any:
        """A device literal follows the anchor; so does the anchor's dtype where it is a narrow one.

        Casts to float32 stay: a model keeps tables and statistics in it whatever its weights are.
        """
        if isinstance(value, torch.device) and self.anchor is not None:
            return self._about_anchor(device_of)
        if isinstance(value, torch.dtype) and self.anchor in self.stored:
            own = self.anchor.meta["val"].dtype  # type: ignore[union-attr]
            if value == own and own in (torch.float16, torch.bfloat16):
                return self._about_anchor(dtype_of)
        return value

    def _about_anchor(self, what: Any) -> fx.Node:
        if what not in self.followed:
            at = self.new[self.anchor]  # type: ignore[index]
            with self.graph.inserting_after(at):
                self.followed[what] = self.graph.call_function(what, (at,))
        return self.followed[what]

    def _dropout(self, node: fx.Node, p: float) -> fx.Node:
        if "scaled_dot_product_attention" not in str(node.target):
            path = self._layer(node, "dropout", nn.Dropout(p))
            return self._placed(self.graph.call_module(path, (self._value(node.args[0]),)), node)
        arg = _arguments(node)
        scale, gqa = arg.get("scale"), arg.get("enable_gqa", False)
        args = tuple(arg.get(k) for k in ("query", "key", "value", "attn_mask"))
        path = self._layer(node, "attention_dropout", FusedAttention(p))
        call = self.graph.call_module(
            path,
            (*self._value(args), bool(arg.get("is_causal", False))),
            {"scale": self._value(scale), "enable_gqa": gqa},
        )
        return self._placed(call, node)

    def _batch_norm(self, node: fx.Node) -> _First:
        x, weight, bias, mean, var, momentum, eps = node.args
        layer = RunningNorm(float(momentum), float(eps), x.meta["val"].dim())  # type: ignore
        path = self._layer(node, "running_norm", layer)
        tensors: list[Any] = list(self._value((x, weight, bias, mean, var)))
        owner = self.stored.get(mean, "").rpartition(".")[0]  # type: ignore[call-overload]
        counter = f"{owner}.num_batches_tracked".lstrip(".")
        if counter in self.carrier.tensors:
            tensors.append(self.graph.create_node("get_attr", counter))
        return _First(self._placed(self.graph.call_module(path, tuple(tensors)), node))

    # -- layers -----------------------------------------------------------------------------------

    def _layer(self, node: fx.Node, role: str, layer: nn.Module) -> str:
        """Register ``layer`` where the operator was called; its own path where that was a layer.

        nn.Dropout comes back under its own name, and one that is called several times is one layer.
        """
        place = ".".join(part.partition("@")[0] for part in place_of(node).split(".") if part)
        owner, fresh = self.root, False
        for part in place.split(".") if place else []:
            fresh = not hasattr(owner, part)
            if fresh:
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if role == "dropout" and place and _was_dropout(node):
            if fresh:
                parent, _, name = place.rpartition(".")
                setattr(self.root.get_submodule(parent), name, layer)
                return place
            if isinstance(owner, nn.Dropout) and owner.p == layer.p:
                return place
        name, i = role, 1
        while hasattr(owner, name):
            name, i = f"{role}_{i}", i + 1
        owner.add_module(name, layer)
        return f"{place}.{name}".lstrip(".")

    def _attribute(self, node: fx.Node) -> None:
        """Subgraphs of higher-order operators come along as they are."""
        target = str(node.target)
        if not hasattr(self.root, target):
            setattr(
                self.root, target, copy.deepcopy(getattr(self.carrier.program.graph_module, target))
            )
        self.new[node] = self.graph.create_node("get_attr", target, name=node.name)

    # -- outputs ----------------------------------------------------------------------------------

    def _output(self, node: fx.Node) -> None:
        specs = self.carrier.program.graph_signature.output_specs
        targets = {name: n for n, name in self.stored.items()}
        targets |= {n.name: n for n in self.inputs}
        values = []
        for value, spec in zip(node.args[0], specs, strict=True):  # type: ignore[arg-type]
            if spec.kind in _MUTATIONS:
                source = targets[str(spec.target)]
                if source not in self.new:
                    self.new[source] = self.graph.create_node("get_attr", self.stored[source])
                target = self.new[source]
                if spec.kind is OutputKind.PARAMETER_MUTATION:  # no gradient flows through state
                    target = self.graph.call_function(aten.detach.default, (target,))
                self.graph.call_function(aten.copy_.default, (target, self._value(value)))
            else:
                values.append(self._value(value))
        self.graph.output(tuple(values))


class _First:
    """The first of several results, the only one that a layer gives."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments by name."""
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _was_dropout(node: fx.Node) -> bool:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return bool(stack) and str(stack[-1][1]).rpartition(".")[2].strip("'>") == "Dropout"
