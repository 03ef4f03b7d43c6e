"""The trainable module: a flat fx.GraphModule with the original names, train mode and pickling."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from meristem.backends.module_dtype import settle_dtypes
from meristem.backends.module_graph import ModuleGraph
from meristem.backends.module_norms import adopt_norms
from meristem.carriers.torch_carrier import TorchCarrier

# Kept per node when a module is pickled: plain strings.
_META = ("nn_module_stack",)


class TrainableModule(fx.GraphModule):
    """A grown program as a module to train: ``graph`` and ``code`` can be read and edited.

    Parameters and buffers have the names of the traced module, ``forward`` its arguments in the
    traced structure, and results its classes. Pickling stores the graph as a table of calls, so it
    needs neither the original class nor this program.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k in _MODULE_STATE}
        return _restore, (_pack(self.graph), state)


# What nn.Module itself keeps; the rest of a GraphModule follows from its graph.
_MODULE_STATE = frozenset(vars(nn.Module()))


def trainable_module(carrier: TorchCarrier) -> TrainableModule:
    """A module that computes the program bit for bit in eval mode and trains in train mode.

    It has every name of the source's ``state_dict`` (tied names share one Parameter, unused weights
    come along), constants and non-persistent buffers as non-persistent buffers. It shares storage
    with ``carrier`` and is in eval mode. Dropouts, attention dropouts and batch norms work in train
    mode; what cannot is in ``carrier.lost``.

    Raises CarrierError for programs with inputs that a module cannot hold (tokens, custom objects).
    """
    root = nn.Module()
    _register(carrier, root)
    graph = ModuleGraph(carrier, root).build()
    settle_dtypes(graph, root, carrier)
    adopt_norms(graph, root)
    return _assemble(graph, vars(root)).eval()


def _assemble(graph: fx.Graph, state: dict[str, Any]) -> TrainableModule:
    """A module around what ``state`` registers (fx copies only what the graph names)."""
    module = TrainableModule(nn.Module(), fx.Graph(), "TrainableModule")
    for key in _MODULE_STATE & state.keys():
        module.__dict__[key] = state[key]
    module.graph = graph
    return module


def _register(carrier: TorchCarrier, root: nn.Module) -> None:
    """Every tensor under its own path."""
    kinds = {spec.target: spec for _, spec in carrier.placeholders() if spec.target}
    state = carrier.program.state_dict
    for name, tensor in (carrier.unused | carrier.tensors).items():
        path, _, leaf = name.rpartition(".")
        owner = _owner(root, path)
        spec = kinds.get(name)
        constant = spec is not None and spec.kind is InputKind.CONSTANT_TENSOR
        if isinstance(tensor, nn.Parameter) and not constant:
            owner.register_parameter(leaf, tensor)
        else:
            persistent = name in state or name in carrier.unused
            owner.register_buffer(leaf, tensor.detach(), persistent=persistent)


def _owner(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root


# -- pickling --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ref:
    """A node by name."""

    name: str


@dataclass(frozen=True)
class _Format:
    """A memory format or layout by its name in torch; older pickle protocols do not know them."""

    name: str


def _pack(graph: fx.Graph) -> dict[str, Any]:
    """The graph as plain data: calls, names, calling convention."""

    def flat(x: Any) -> Any:
        return fx.node.map_arg(x, lambda n: _Ref(n.name))

    calls = [
        (
            n.op,
            n.name,
            _pack_target(n.target),
            _plain(flat(n.args)),
            _plain(flat(n.kwargs)),
            {k: dict(n.meta[k]) for k in _META if k in n.meta},
        )
        for n in graph.nodes
    ]
    info = graph._codegen.pytree_info  # type: ignore[attr-defined]
    return {"calls": calls, "names": list(info.orig_args), "in": info.in_spec, "out": info.out_spec}


def _plain(x: Any) -> Any:
    """fx keeps immutable containers; plain ones read the same and pickle everywhere."""
    if isinstance(x, tuple) and not hasattr(x, "_fields"):
        return tuple(_plain(v) for v in x)
    if isinstance(x, list):
        return [_plain(v) for v in x]
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (torch.memory_format, torch.layout)):
        return _Format(str(x).removeprefix("torch."))
    return x


def _pack_target(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        return ("operator", *target._schema.name.split("::"), target._overloadname)
    if isinstance(target, str):
        return target
    return ("function", target.__module__, target.__qualname__)


def _unpack_target(packed: Any) -> Any:
    if isinstance(packed, str):
        return packed
    kind, *path = packed
    if kind == "operator":
        space, name, overload = path
        return getattr(getattr(getattr(torch.ops, space), name), overload)
    found: Any = importlib.import_module(path[0])
    for part in path[1].split("."):
        found = getattr(found, part)
    return found


def _restore(packed: dict[str, Any], state: dict[str, Any]) -> TrainableModule:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def full(x: Any) -> Any:
        if isinstance(x, _Ref):
            return nodes[x.name]
        if isinstance(x, _Format):
            return getattr(torch, x.name)
        if isinstance(x, (list, tuple)):
            return type(x)(full(v) for v in x)
        if isinstance(x, dict):
            return {k: full(v) for k, v in x.items()}
        if isinstance(x, slice):
            return slice(full(x.start), full(x.stop), full(x.step))
        return x

    for op, name, target, args, kwargs, meta in packed["calls"]:
        node = graph.create_node(op, _unpack_target(target), full(args), full(kwargs), name)
        node.meta.update(meta)
        nodes[name] = node
    info = _PyTreeInfo(packed["names"], packed["in"], packed["out"])
    graph.set_codegen(_PyTreeCodeGen(info))
    return _assemble(graph, state)
