"""Repeating blocks of an ONNX model: nodes, initialisers and module paths are copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from meristem.backends.onnx_edits import Editor
from meristem.backends.onnx_nodes import stand_in
from meristem.backends.onnx_scales import scale
from meristem.carriers.onnx_carrier import OnnxCarrier, Storage
from meristem.carriers.onnx_places import KIND, SCOPED, renamed, rescoped
from meristem.carriers.onnx_values import read, stored
from meristem.rewrite.depth import CloneEdit, DepthScript
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array, Value, Weight
from meristem.rewrite.made import Copy, Made
from meristem.rewrite.repeat import ConvEdit, ScaleEdit
from meristem.rewrite.steps import Block


def apply_depth(carrier: OnnxCarrier, script: DepthScript) -> OnnxCarrier:
    """A new carrier with the copies of ``script`` in place; the source stays as it is.

    Raises CarrierError where a point of the stream is no value of the file.
    """
    return Repeats(carrier, script).run()


@dataclass
class _Region:
    """The nodes that repeat a block, in order, between two values of the stream."""

    entry: ir.Value
    exit: ir.Value
    nodes: list[ir.Node]


class Repeats:
    """The steps of repeating blocks; ``run`` takes those of a growth in depth."""

    def __init__(self, carrier: OnnxCarrier, script: DepthScript) -> None:
        self.carrier, self.script = carrier, script
        self.editor = Editor(carrier)
        self.graph = self.editor.graph
        self.order = {n: i for i, n in enumerate(self.graph)}
        self.ties = dict(carrier.ties)
        self.shared = set(carrier.shared)
        # Names of nodes and of values must not meet each other's, and both must be new.
        self.editor.used |= {str(n.name) for n in self.graph.all_nodes() if n.name}
        # As they were before modules behind new blocks moved up.
        self.names = {v: n for n, v in self.graph.initializers.items()}
        self.records = {n: dict(n.metadata_props) for n in self.graph}
        self.scales: list[ScaleEdit] = []

    def run(self) -> OnnxCarrier:
        self.scales = self.script.scales
        regions: dict[Block, _Region] = {}
        for c in self.script.clones:
            if c.block not in regions:
                regions[c.block] = self._region(c.block)
        self._rename(self._outside())
        ends: dict[tuple[int, int], ir.Value] = {}
        copies: dict[tuple[int, int], set[ir.Node]] = {}
        for c in self.script.clones:
            key = (id(c.stack), c.position)
            at = ends.get(key) or self._value(c.after)
            ends[key] = self._copy(c, regions[c.block], at, copies.setdefault(key, set()))
        for c in self.script.clones:
            key = (id(c.stack), c.position)
            if key in ends:
                self._connect(self._value(c.after), ends.pop(key), copies[key])
        for e in self.scales:
            scale(self, e, self.script.moved(e.name), {}, {})
        self.graph.sort()
        self.editor.remove_unused()
        return replace(
            self.carrier, model=self.editor.model, path=None, normalisations=[],
            ties=self.ties, shared=frozenset(self.shared),
        )  # fmt: skip

    # -- regions -------------------------------------------------------------------------------

    def _value(self, value: Value) -> ir.Value:
        """The file's value of a value of the view."""
        try:
            return self.editor.value(value.name)
        except KeyError:
            raise CarrierError(
                f"{value.name} lies inside of one operator of the file, so no block can start or end "
                "there",
                value=value.name,
            ) from None

    def _region(self, block: Block) -> _Region:
        """What is computed from the entry on the way to the exit, and what only the block uses."""
        entry, end = self._value(block.entry), self._value(block.exit)
        before: set[ir.Node] = set()
        stack = [end]
        while stack:
            node = stack.pop().producer()
            if node is None or node in before or node is entry.producer():
                continue
            before.add(node)
            stack.extend(v for v in node.inputs if v is not None)
        inside: set[ir.Node] = set()
        for node in sorted(before, key=self.order.__getitem__):
            if any(v is entry or _producer(v) in inside for v in node.inputs):
                inside.add(node)
        inside |= {self.editor.node(op.native) for op in block.ops} & set(self.order)
        for node in inside:
            if any(a.type in _GRAPHS for a in node.attributes.values()):
                raise CarrierError(
                    f"{node.op_type} {node.name or ''} holds a graph of its own, so its block cannot "
                    "be repeated",
                    op=node.op_type,
                )
        return _Region(entry, end, sorted(inside, key=self.order.__getitem__))

    def _outside(self) -> set[ir.Node]:
        """Nodes of moved modules that a whole stack shares; their module paths stay."""
        stacks = {c.stack: None for c in self.script.clones}
        inside = {n for s in stacks for b in s.blocks for n in self._region(b).nodes}
        return set(self.order) - inside

    # -- copies --------------------------------------------------------------------------------

    def _copy(
        self, clone: CloneEdit, region: _Region, at: ir.Value, made: set[ir.Node]
    ) -> ir.Value:
        """The block once more, reading ``at``; returns where its stream ends."""
        values: dict[ir.Value, ir.Value] = {region.entry: at}
        weights = _Weights(self, clone)
        convs = {self.editor.node(e.op.native): e for e in clone.convs}
        nodes: dict[ir.Node, ir.Node] = {}
        for node in region.nodes:
            inputs = [
                None if v is None else values.get(v) or weights.of(node, i, v)
                for i, v in enumerate(node.inputs)
            ]
            new = self._node(node, inputs, clone)
            if node in convs:
                self._set_convolution(new, convs[node])
            values.update(zip(node.outputs, new.outputs, strict=True))
            nodes[node] = new
            made.add(new)
        for e in self.scales:
            if e.op in clone.block.ops:
                made.add(scale(self, e, clone.name(e.name), nodes, values))
        end = values[region.exit]
        if clone.gate is not None:
            end = self._gated(clone, at, end, region.nodes[-1], made)
        return end

    def _node(self, node: ir.Node, inputs: list[ir.Value | None], clone: CloneEdit) -> ir.Node:
        outputs = []
        for v in node.outputs:
            name = self.editor.fresh_name(f"{v.name}_{clone.tag}") if v.name else ""
            out = ir.Value(name=name, type=v.type, shape=v.shape, doc_string=v.doc_string)
            out.metadata_props.update(v.metadata_props)
            outputs.append(out)
        base = renamed(str(node.name), clone.modules) if node.name else ""
        base = base if base != node.name else f"{node.name}_{clone.tag}"
        new = ir.Node(
            node.domain, node.op_type, inputs, node.attributes.values(), overload=node.overload,
            outputs=outputs, version=node.version, doc_string=node.doc_string,
            name=self.editor.fresh_name(base) if base else None,
            metadata_props=_moved_record(self.records[node], clone.modules),
        )  # fmt: skip
        self.graph.append(new)
        return new

    def _set_convolution(self, node: ir.Node, edit: ConvEdit) -> None:
        """Stride and dilation 1, an odd kernel padded to keep sizes, and groups."""
        if node.op_type != "Conv":
            raise CarrierError(
                f"{node.op_type} is no convolution that can be repeated", op=node.op_type
            )
        pads = [k // 2 for k in edit.kernel]
        ones = [1] * len(edit.kernel)
        wanted = {"strides": ones, "dilations": ones, "pads": [*pads, *pads]}
        wanted |= {"kernel_shape": list(edit.kernel)}
        node.attributes.pop("auto_pad", None)
        for name, value in wanted.items():
            self.editor.set_attribute(node, name, value)
        self.editor.set_attribute(node, "group", edit.groups)

    def _gated(
        self, clone: CloneEdit, x: ir.Value, y: ir.Value, like: ir.Node, made: set[ir.Node]
    ) -> ir.Value:
        """x + g * (y - x), the cheapest form in a runtime (docs/onnx.md)."""
        assert clone.gate is not None
        gate = self.editor.constant(np.zeros(()), clone.block.exit.dtype, clone.gate)
        gate.metadata_props[KIND] = "PARAMETER"

        def add(op: str, a: ir.Value, b: ir.Value) -> ir.Value:
            name = f"{clone.gate}.{op.lower()}"
            out = ir.Value(name=self.editor.fresh_name(name), type=y.type, shape=y.shape)
            node = ir.node(
                op, [a, b], outputs=[out], name=self.editor.fresh_name(f"node_{name}"),
                metadata_props=_moved_record(self.records[like], clone.modules),
            )  # fmt: skip
            self.graph.append(node)
            made.add(node)
            return out

        return add("Add", x, add("Mul", add("Sub", y, x), gate))

    def _connect(self, old: ir.Value, new: ir.Value, made: set[ir.Node]) -> None:
        """Everything behind the block reads the copy, unless the copy itself depends on it."""
        needed: set[ir.Node] = set()
        stack = [v for m in made for v in m.inputs if v is not None and v is not old]
        while stack:
            node = stack.pop().producer()
            if node is not None and node not in needed and node not in made:
                needed.add(node)
                stack.extend(v for v in node.inputs if v is not None and v is not old)
        for user, i in list(old.uses()):
            if user not in made and user not in needed:
                user.replace_input_with(i, new)
        if old.is_graph_output():
            kept = [(user, i) for user, i in old.uses()]
            stand_in(self.editor, old, new)
            for user, i in kept:
                user.replace_input_with(i, old)

    # -- names ---------------------------------------------------------------------------------

    def _rename(self, outside: Iterable[ir.Node]) -> None:
        """Modules behind new blocks have higher numbers: initialisers and records follow."""
        moves = self.script.moves
        if not moves:
            return
        stay = set(outside)
        for node in self.order:
            if node not in stay:
                record = _moved_record(node.metadata_props, moves)
                node.metadata_props.update(record)
        moved = {n: self.script.moved(n) for n in self.graph.initializers}
        moved = {n: m for n, m in moved.items() if n != m}
        self.editor.rename(moved)
        back = {m: n for n, m in moved.items()}
        self.names = {v: back.get(n, n) for n, v in self.graph.initializers.items()}
        self.ties = {moved.get(n, n): (moved.get(p, p), t) for n, (p, t) in self.ties.items()}
        self.shared = {moved.get(n, n) for n in self.shared}


class _Weights:
    """Initialisers of one copy: the block's own are repeated, all others are shared."""

    def __init__(self, depth: Repeats, clone: CloneEdit) -> None:
        self.depth, self.clone = depth, clone
        self.names: dict[str, Weight] = {}
        self.uses: dict[tuple[ir.Node, int], Weight] = {}
        for w in clone.block.weights:
            storage: Storage = w.native
            if storage.use is None:
                self.names.update(dict.fromkeys([storage.name, *(n for n, _ in storage.twins)], w))
            else:
                self.uses[depth.editor.node(storage.use[0]), storage.use[1]] = w
        self.made: dict[str, ir.Value] = {}

    def of(self, node: ir.Node, i: int, value: ir.Value) -> ir.Value:
        """What the copy reads in place of a value from outside of the block."""
        known = self.depth.names.get(value, str(value.name))
        w = self.uses.get((node, i)) or self.names.get(known)
        if w is None or stored(value) is None:
            return value
        name = known if w.native.use is None else w.name
        if name not in self.made:
            self.made[name] = self._copied(w, value, name)
        return self.made[name]

    def _copied(self, w: Weight, value: ir.Value, name: str) -> ir.Value:
        depth, clone = self.depth, self.clone
        tensor = stored(value)
        made = clone.how(w)
        source = clone.origins.get(w)
        old = tensor if source is None else stored(depth.editor.value(source.native.name))
        shape = ir.Shape(made.shape(tuple(tensor.shape)))
        new = ir.Value(
            name=depth.editor.fresh_name(clone.name(name)), shape=shape,
            type=value.type if value.type is not None else ir.TensorType(tensor.dtype),
        )  # fmt: skip
        new.const_value = ir.LazyTensor(
            lambda: ir.Tensor(_array(made, read(old)), dtype=tensor.dtype, name=new.name),
            dtype=tensor.dtype, shape=shape, cache=False, name=new.name,
        )  # fmt: skip
        new.metadata_props.update(_moved_record(value.metadata_props, clone.modules))
        depth.graph.register_initializer(new)
        if name in depth.carrier.shared:
            depth.shared.add(str(new.name))
        if name in depth.carrier.ties:
            primary, transposed = depth.carrier.ties[name]
            depth.ties[str(new.name)] = (clone.name(primary), transposed)
        return new


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _array(made: Made, old: Array) -> Array:
    return old if isinstance(made, Copy) else np.ascontiguousarray(made.apply(old))


def _moved_record(record: Mapping[str, str], modules: dict[str, str]) -> dict[str, str]:
    """Metadata with module paths renamed."""
    return {k: rescoped(v, modules) if k in SCOPED else v for k, v in record.items()}
