"""A copy of an ONNX model under edit: constants, attributes, weights, inserted nodes.

Nothing here touches the source model: its nodes and values are found again in the copy by position
and name, constants that others use are replaced for one use, and weights are recipes until they are
saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.carriers.onnx_carrier import OnnxCarrier, Storage
from meristem.carriers.onnx_values import dtype_name, dtype_of, read, stored
from meristem.rewrite.edits import LiteralEdit, WeightEdit
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Array


class Editor:
    """``model`` is the copy; ``node`` and ``value`` find the source's nodes and values in it."""

    def __init__(self, source: OnnxCarrier) -> None:
        self.source = source
        self.model = source.model.clone()
        old = list(source.graph.all_nodes())
        new = list(self.model.graph.all_nodes())
        self._nodes = dict(zip(old, new, strict=True))
        self._values: dict[str, ir.Value] = {}
        for node in new:
            self._values.update({str(v.name): v for v in node.outputs if v.name})
        for v in (*self.graph.inputs, *self.graph.initializers.values()):
            self._values[str(v.name)] = v
        self.used = set(self._values)
        self.inserted: list[ir.Node] = []

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    def node(self, native: ir.Node) -> ir.Node:
        """The copy's node of a node of the source."""
        return self._nodes[native]

    def value(self, name: str) -> ir.Value:
        return self._values[name]

    def pairs(self) -> Mapping[ir.Node, ir.Node]:
        """Source node -> copy's node."""
        return self._nodes

    def fresh_name(self, base: str) -> str:
        """``base``, or the first free ``base_1``, ``base_2``, ..."""
        name, i = base, 0
        while name in self.used:
            i += 1
            name = f"{base}_{i}"
        self.used.add(name)
        return name

    # -- constants and attributes --------------------------------------------------------------

    def constant(self, data: Any, dtype: str, base: str) -> ir.Value:
        """A new initialiser."""
        kind = dtype_of(dtype)
        name = self.fresh_name(base)
        tensor = ir.tensor(np.asarray(data).astype(kind.numpy()), dtype=kind, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(kind), shape=ir.Shape(tensor.shape), const_value=tensor
        )
        self.graph.register_initializer(value)
        self._values[name] = value
        return value

    def replace_constant(
        self, node: ir.Node, i: int, data: Array, dtype: str | None = None
    ) -> None:
        """The constant at one input changes for this node alone; it keeps a name of its own."""
        old = node.inputs[i]
        assert old is not None
        kind = dtype or dtype_name(old.dtype if old.dtype is not None else stored(old).dtype)
        name = str(old.name)
        sole = (
            len(old.uses()) == 1 and not old.is_graph_output() and name in self.graph.initializers
        )
        if sole:
            del self.graph.initializers[name]
            self.used.discard(name)
        new = self.constant(data, kind, name if sole else f"{name}_grown")
        if sole:
            new.metadata_props.update(old.metadata_props)
            new.doc_string = old.doc_string
        node.replace_input_with(i, new)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        """An attribute keeps its type; a missing one becomes int, float or ints by the value."""
        known = node.attributes.get(name)
        if known is not None and known.type == ir.AttributeType.INT:
            value = int(value)
        node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def literal(self, edit: LiteralEdit) -> None:
        """A constant operand or a float attribute."""
        node = self.node(edit.slot.native)
        kind, *rest = edit.slot.role
        if kind == "attr":
            self.set_attribute(node, rest[0], float(np.asarray(edit.data).ravel()[0]))
        elif kind in ("input", "entry", "scalar"):
            self.replace_constant(node, rest[0], edit.data)
        else:
            raise OutputError(
                f"a constant at {edit.slot.role} of {node.op_type} cannot be rewritten"
            )

    # -- weights -------------------------------------------------------------------------------

    def weights(self, edits: Sequence[WeightEdit], separate: Mapping[str, list[Any]]) -> None:
        """``separate`` lists, by initialiser, the weights that stand for one use each."""
        split = {e.weight.native.name for e in edits if e.weight.native.use is not None}
        for name in sorted(split):
            for w in separate[name]:
                self._own(w.native, w.name)
        for e in edits:
            self._grow(e)

    def _own(self, storage: Storage, name: str) -> None:
        """One use of a shared tensor gets an initialiser of its own."""
        assert storage.use is not None
        native, i = storage.use
        node = self.node(native)
        old = node.inputs[i]
        assert old is not None
        if name == storage.name:
            if old.producer() is None:
                return  # the first use keeps the tensor
            self.used.discard(name)
        node.replace_input_with(i, self._copied(old, name))

    def _copied(self, old: ir.Value, name: str) -> ir.Value:
        """The same tensor as an initialiser of another name."""
        if old.name == name:  # the result of a Constant node hands over its name
            old.name = self.fresh_name(f"{name}_constant")
        name = self.fresh_name(name)
        tensor = named(stored(old), name)
        kind = old.type if old.type is not None else ir.TensorType(tensor.dtype)
        new = ir.Value(name=name, type=kind, shape=tensor.shape, const_value=tensor)
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        self.graph.register_initializer(new)
        self._values[name] = new
        return new

    def rename(self, moved: Mapping[str, str]) -> None:
        """Initialisers under new names, all at once; the source's tensors keep theirs."""
        old = {name: self.graph.initializers[name] for name in moved}
        for name in moved:
            del self.graph.initializers[name]
            self.used.discard(name)
        for name, value in old.items():
            new = self._copied(value, moved[name])
            value.replace_all_uses_with(new, replace_graph_outputs=True)

    def _grow(self, edit: WeightEdit) -> None:
        w, recipe = edit.weight, edit.expansion
        storage: Storage = w.native
        value = self._values.get(w.name if storage.use is not None else storage.name)
        assert value is not None
        if value.producer() is not None:
            value = self._lifted(value)
        tensor = stored(value)
        self._store(value, _recipe(tensor, edit), recipe.shape)
        for name, transposed in storage.twins:
            shape = recipe.shape[::-1] if transposed else recipe.shape
            turned: Callable[[], Array] = _recipe(tensor, edit)
            self._store(self.value(name), _transposed(turned) if transposed else turned, shape)

    def _lifted(self, value: ir.Value) -> ir.Value:
        """A Constant node becomes an initialiser of the same name."""
        self.used.discard(str(value.name))
        new = self._copied(value, str(value.name))
        value.replace_all_uses_with(new, replace_graph_outputs=True)
        return new

    def _store(self, value: ir.Value, make: Callable[[], Array], shape: Sequence[int]) -> None:
        dtype = value.dtype if value.dtype is not None else stored(value).dtype
        sizes = ir.Shape(tuple(shape))
        name = str(value.name)
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(np.ascontiguousarray(make()), dtype=dtype, name=name),
            dtype=dtype,
            shape=sizes,
            cache=False,
            name=name,
        )
        value.shape = sizes

    # -- nodes ---------------------------------------------------------------------------------

    def insert(
        self,
        before: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        base: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """A new node before another one, with its metadata; returns its result."""
        like = inputs[0].dtype if inputs[0] is not None else None
        if op == "Cast":
            like = ir.DataType((attributes or {})["to"])
        out = ir.Value(name=self.fresh_name(base), type=ir.TensorType(like) if like else None)
        node = ir.node(
            op,
            list(inputs),
            attributes=dict(attributes or {}),
            outputs=[out],
            name=self.fresh_name(_beside(before, base)),
            metadata_props=dict(before.metadata_props),
        )
        owner = before.graph
        assert owner is not None
        owner.insert_before(before, node)
        self.inserted.append(node)
        self._values[str(out.name)] = out
        return out

    def ints(self, data: Sequence[int], base: str) -> ir.Value:
        """An integer vector as an initialiser."""
        return self.constant(np.asarray(data, np.int64), "int64", base)

    def remove_unused(self) -> None:
        """Drop what the edits left without use; what had no use before stays."""
        idle = {
            id(self._nodes[n])
            for n in self.source.graph.all_nodes()
            if not any(v.uses() or v.is_graph_output() for v in n.outputs)
        }
        idle_constants = {n for n, v in self.source.graph.initializers.items() if not v.uses()}
        for node in reversed(list(self.graph)):
            if id(node) not in idle and not any(
                v.uses() or v.is_graph_output() for v in node.outputs
            ):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            spare = not value.uses() and not value.is_graph_output()
            if spare and name not in idle_constants and not value.is_graph_input():
                del self.graph.initializers[name]


def _beside(node: ir.Node, base: str) -> str:
    """The name of a new node; where names are paths it is of the same module."""
    path, slash, _ = (node.name or "").rpartition("/")
    return f"{path}/{base.rpartition('/')[2]}" if slash else f"node_{base}"


def named(tensor: Any, name: str) -> ir.LazyTensor:
    """A tensor under another name; renaming itself would reach into the source's own file."""
    return ir.LazyTensor(
        lambda: ir.Tensor(read(tensor), dtype=tensor.dtype, name=name),
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape),
        cache=False,
        name=name,
    )


def _recipe(tensor: Any, edit: WeightEdit) -> Callable[[], Array]:
    """The grown tensor, computed when it is written."""
    return lambda: edit.make(read(tensor))


def _transposed(make: Callable[[], Array]) -> Callable[[], Array]:
    return lambda: make().T
