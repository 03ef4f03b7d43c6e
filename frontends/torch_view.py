"""Building the view over a torch carrier."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import OutputKind

import meristem.carriers.aten_table
import meristem.rewrite.semantics  # noqa: F401  (fills the registry)
from meristem.carriers.aten import lower
from meristem.carriers.aten_values import UnbackedSize, dtype_name, place_of, shape_of
from meristem.carriers.torch_carrier import TorchCarrier, storage_key
from meristem.rewrite.builder import Builder
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.fuse import fuse_norms
from meristem.rewrite.graph import Array, Graph, Input, Literal, Slot, Value, Weight

# Constant tensors up to this size are literals: index tables, masks, scalars.
LITERAL_BYTES = 1 << 16
# Calls without tensor results that the view has no use for.
IGNORED = ("_assert", "sym_constrain", "_assert_tensor_metadata", "_assert_scalar", "_assert_async")


def view_torch(carrier: TorchCarrier) -> Graph:
    """The view of a program: one pass over its nodes through the lowering table."""
    return _View(carrier).build()


def to_numpy(t: torch.Tensor) -> Array:
    """Stored values as numpy; bfloat16 widens to float32, which holds it exactly."""
    t = t.detach().cpu()
    if t.dtype in (torch.bfloat16,):
        t = t.float()
    return np.asarray(t.numpy())


class _View:
    def __init__(self, carrier: TorchCarrier) -> None:
        self.carrier = carrier
        self.b = Builder()
        self.values: dict[fx.Node, Any] = {}

    def build(self) -> Graph:
        graph = self.b.graph
        self._weights()
        for node in self.carrier.user_inputs():
            self._input(node)
        for node in self.carrier.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)
        fuse_norms(graph)
        used = [w for w in graph.weights if w.uses]
        graph.unused = [w for w in graph.weights if not w.uses]
        graph.weights = used
        return graph

    def _weights(self) -> None:
        by_storage: dict[Any, Weight] = {}
        for node, name, role, tensor in self.carrier.stored():
            small = tensor.numel() * tensor.element_size() <= LITERAL_BYTES
            if small and (role == "constant" or not tensor.dtype.is_floating_point):
                self.values[node] = self._literal(node, tensor)
                continue
            known = by_storage.get(storage_key(tensor))
            if known is not None:
                known.aliases = (*known.aliases, name)
                self.values[node] = known
                continue
            weight = Weight(
                name,
                tuple(tensor.shape),
                dtype_name(tensor.dtype),
                role=role,
                native=node,
                read=lambda t=tensor: to_numpy(t),
            )
            by_storage[storage_key(tensor)] = weight
            self.values[node] = weight
            self.b.graph.weights.append(weight)

    def _literal(self, node: fx.Node, tensor: torch.Tensor) -> Literal:
        literal = Literal(
            node.name,
            tuple(tensor.shape),
            dtype_name(tensor.dtype),
            data=to_numpy(tensor),
            slot=Slot(node, ("constant",)),
        )
        self.b.graph.literals.append(literal)
        return literal

    def _input(self, node: fx.Node) -> None:
        val = node.meta["val"]
        dynamic = {i: str(n) for i, n in enumerate(val.shape) if isinstance(n, torch.SymInt)}
        value = Input(node.name, shape_of(val), dtype_name(val.dtype), dynamic=dynamic)
        self.values[node] = value
        self.b.graph.inputs.append(value)

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source = self.values.get(node.args[0])  # type: ignore[arg-type]
            got = source[node.args[1]] if source is not None else None  # type: ignore[index]
            self._name(got, node.args[0], node)
            self.values[node] = got
            return
        val = node.meta.get("val")
        if val is None or isinstance(
            val, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)
        ):
            return  # arithmetic of sizes lives in the carrier
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name.startswith(
            "aten::_assert"
        ):
            return
        origin = str(node.target).removesuffix(".default")
        self.b.at(node, place_of(node), origin)
        mark = len(self.b.graph.ops)
        try:
            got = lower(self.b, node, self.values) if self._lowerable(node) else None
        except UnbackedSize:
            got = None
        except (ValueError, AssertionError, IndexError, TypeError) as error:
            raise CarrierError(
                f"{origin} in {place_of(node) or 'the graph'} could not be read: {error}",
                op=origin,
                place=place_of(node),
            ) from error
        if got is None:
            self._drop(mark)
            got = self._opaque(node)
        self.values[node] = self._checked(got, val)
        self._name(got, node, node)

    @staticmethod
    def _name(value: Any, native: Any, node: fx.Node) -> None:
        """A value that a node gives is called like the node; those on the way keep their numbers."""
        own = isinstance(value, Value) and value.producer is not None
        if own and value.producer.native is native and value.name.isdigit():
            value.name = node.name

    def _drop(self, mark: int) -> None:
        """Forget the operators of a lowering that declined."""
        for op in self.b.graph.ops[mark:]:
            for i, v in enumerate(op.inputs):
                v.uses.remove((op, i))
        del self.b.graph.ops[mark:]

    def _lowerable(self, node: fx.Node) -> bool:
        return isinstance(node.target, torch._ops.OpOverload) and all(
            isinstance(self.values.get(n), (Value, list))
            or not isinstance(n.meta.get("val"), torch.Tensor)
            for n in node.all_input_nodes
        )

    def _opaque(self, node: fx.Node) -> Any:
        inputs = []
        for n in node.all_input_nodes:
            v = self.values.get(n)
            inputs.extend(v if isinstance(v, list) else [v])
        val = node.meta["val"]
        results = list(val) if isinstance(val, (tuple, list)) else [val]
        tensors = [t for t in results if isinstance(t, torch.Tensor)]
        try:
            shapes = [shape_of(t) for t in tensors]
        except UnbackedSize as error:
            raise CarrierError(
                f"{node.target} in {place_of(node) or 'the graph'} makes a tensor whose shape depends "
                f"on data ({error}); rewrite that part with fixed shapes (a mask instead of a selection)",
                op=str(node.target),
                place=place_of(node),
            ) from error
        op = self.b.opaque(
            [v for v in inputs if isinstance(v, Value)],
            shapes,
            [dtype_name(t.dtype) for t in tensors],
        )
        outputs = iter(op.outputs)
        got = [next(outputs) if isinstance(t, torch.Tensor) else None for t in results]
        return got if isinstance(val, (tuple, list)) else got[0]

    def _checked(self, got: Any, val: Any) -> Any:
        if isinstance(got, list):
            for v, t in zip(got, val, strict=False):
                if v is not None and isinstance(t, torch.Tensor):
                    self.b.check(v, shape_of(t), dtype_name(t.dtype))
            return got
        return self.b.check(got, shape_of(val), dtype_name(val.dtype))

    def _outputs(self, node: fx.Node) -> None:
        specs = self.carrier.program.graph_signature.output_specs
        for n, spec in zip(node.args[0], specs, strict=True):  # type: ignore[arg-type]
            if isinstance(n, fx.Node) and isinstance(self.values.get(n), Value):
                self.b.graph.outputs.append((n.name, self.values[n]))
                if spec.kind is not OutputKind.USER_OUTPUT:
                    self.b.graph.written[n.name] = str(spec.target)
