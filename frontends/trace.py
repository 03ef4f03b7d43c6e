"""Tracing: any nn.Module or GraphModule to a functional ExportedProgram, once, in eval mode."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.errors import CarrierError

_STRIDED = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


def trace_module(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = "auto",
) -> TorchCarrier:
    """Export ``module`` non-strictly in eval mode and make it functional.

    ``dynamic_shapes="auto"`` leaves every axis of the inputs whose size is at least 2 dynamic where the
    model allows it; None traces static shapes. The module's mode is restored.

    Raises CarrierError where torch.export refuses, with its reason.
    """
    modes = {m: m.training for m in module.modules()}
    shapes = auto_shapes(args, kwargs) if isinstance(dynamic_shapes, str) else dynamic_shapes
    try:
        module.eval()
        program = torch.export.export(
            module, args, kwargs, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=False
        )
        probabilities = attention_dropouts(module, args, kwargs or {})
    except CarrierError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CarrierError(
            f"torch.export refused {type(module).__name__}: {first}; make the forward pass exportable "
            "(no branches or shapes that depend on data), or pass dynamic_shapes=None",
            module=type(module).__name__,
        ) from error
    finally:
        for m, mode in modes.items():
            m.training = mode
    return functional_carrier(program, probabilities)


def auto_shapes(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Every axis of every tensor input is Dim.AUTO; axes of one stay fixed by torch itself."""

    def dims(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return {i: Dim.AUTO for i in range(x.dim())}
        return None

    tree = torch.utils._pytree.tree_map(dims, (args, kwargs or {}))
    return (*tree[0], *tree[1].values()) if not kwargs else (*tree[0], *tree[1].values())


def functional_carrier(
    program: ExportedProgram, attention: list[float] | None = None
) -> TorchCarrier:
    """Make a program functional and note its dropouts by the provenance that torch keeps."""
    noted = {
        n.name: float(n.args[1])
        for n in program.graph.nodes
        if n.op == "call_function" and str(n.target).startswith("aten.dropout") and n.args[1]
    }
    attentions = [n for n in program.graph.nodes if _is_attention(n)]
    lost: list[str] = []
    for i, node in enumerate(attentions):
        own = float(node.args[4]) if len(node.args) > 4 else float(node.kwargs.get("dropout_p", 0.0))
        if own:
            noted[node.name] = own
        elif attention is not None and len(attention) == len(attentions) and attention[i]:
            noted[node.name] = attention[i]
    if attention is not None and len(attention) != len(attentions):
        lost.append("dropout of attention weights: train mode calls attention another number of times")
    if attention is None and attentions:
        lost.append("dropout of attention weights, which a program exported in eval mode does not carry")
    functional = program.run_decompositions({})
    dropouts: dict[str, float] = {}
    for node in functional.graph.nodes:
        source = _origin(node)
        if source in noted and node.op == "call_function":
            dropouts[node.name] = noted[source]
    carrier = TorchCarrier(functional, dropouts, lost)
    normalise(carrier)
    return carrier


def _is_attention(node: fx.Node) -> bool:
    return node.op == "call_function" and "scaled_dot_product_attention" in str(node.target)


def _origin(node: fx.Node) -> str:
    """Name of the node of the first program that this one came from."""
    sources = node.meta.get("from_node") or []
    source = sources[-1] if sources else None
    while source is not None and getattr(source, "from_node", None):
        inner = source.from_node[-1]
        if not inner.name:
            break
        source = inner
    return source.name if source is not None else ""


class _AttentionCalls(TorchFunctionMode):
    """Notes dropout_p of every fused attention call, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.seen.append(float(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)))
        return func(*args, **kwargs)


def attention_dropouts(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[float]:
    """Probabilities that the module's train mode gives to its fused attentions, in call order.

    One forward pass of a copy in train mode, without gradients, on the example inputs; the random
    state is restored.
    """
    if not any(isinstance(m, nn.Module) for m in module.modules()):
        return []
    twin = copy.deepcopy(module).train()
    calls = _AttentionCalls()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), calls:
        twin(*args, **kwargs)
    return calls.seen


def normalise(carrier: TorchCarrier) -> None:
    """Spell equal splits with their sizes and strided views as reshapes, so that sizes can be edited."""
    aten = torch.ops.aten
    graph = carrier.graph
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _STRIDED:
            node.target = aten.reshape.default
        elif node.target in (aten.split.Tensor, aten.chunk.default):
            axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
            sizes = [v.shape[axis] for v in node.meta["val"]]
            if all(isinstance(n, int) for n in sizes):
                node.target = aten.split_with_sizes.default
                node.args, node.kwargs = (node.args[0], sizes, axis), {}
    carrier.program.graph_module.recompile()
