"""Lowering a whole ONNX graph: one pass over its nodes, sizes computed on the way.

Dynamic axes are bound to hints, so every shape is a number and every shape computation a literal.
The backend drives the same pass over an edited model, node by node, to see what its size vectors
give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

import meristem.carriers.onnx_ops_all
import meristem.rewrite.semantics  # noqa: F401  (fills the registry)
from meristem.carriers.onnx_barrier import reference_fold, result_shapes
from meristem.carriers.onnx_builder import FoldingBuilder
from meristem.carriers.onnx_carrier import OnnxCarrier, symbol
from meristem.carriers.onnx_ops import Call, Declined, lowering
from meristem.carriers.onnx_places import place_of
from meristem.carriers.onnx_values import dtype_name
from meristem.carriers.onnx_weights import Leaves, unused
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Graph, Input, Literal, Op, Value


class Lowering:
    """State of one pass: ``values`` maps the carrier's values to the view's, or lists of them."""

    def __init__(self, carrier: OnnxCarrier, hints: Mapping[str, int] | None = None) -> None:
        self.carrier = carrier
        self.hints = carrier.hints(hints)
        self.b = FoldingBuilder()
        self.leaves = Leaves(carrier, self.b)
        self.values: dict[ir.Value, Any] = {}
        self.ops_of: dict[ir.Node, list[Op]] = {}
        self.literals_of: dict[ir.Node, list[Literal]] = {}
        self.declined: list[tuple[ir.Node, str]] = []
        self._last_place = ""
        self._inputs()

    def run(self) -> Lowering:
        """Lower every node and close the graph."""
        for node in self.carrier.graph:
            self.step(node)
        return self.finish()

    def finish(self) -> Lowering:
        """State outputs and the weights that nothing reads."""
        graph = self.b.graph
        for v in self.carrier.graph.outputs:
            value = self.values.get(v)
            if value is None:
                value = self.leaves.operand(v, _NOWHERE, 0)
            if isinstance(value, Literal) and value not in graph.literals:
                graph.literals.append(value)
            if isinstance(value, Value):
                graph.outputs.append((str(v.name), value))
        graph.weights = [w for w in graph.weights if w.uses or w in [o for _, o in graph.outputs]]
        graph.unused = unused(self.carrier, self.b)
        return self

    @property
    def graph(self) -> Graph:
        return self.b.graph

    def _inputs(self) -> None:
        shapes = self.carrier.input_shapes(self.hints)
        for v in self.carrier.inputs():
            if v.shape is None:
                raise CarrierError(
                    f"the input {v.name} states no shape; give it one at export, with symbols for "
                    "dynamic axes",
                    input=v.name,
                )
            dynamic = {a: symbol(v, a) for a, n in enumerate(v.shape) if not isinstance(n, int)}
            value = Input(str(v.name), shapes[str(v.name)], dtype_name(v.dtype), dynamic=dynamic)
            self.values[v] = value
            self.b.graph.inputs.append(value)

    # -- nodes ---------------------------------------------------------------------------------

    def step(self, node: ir.Node) -> None:
        """Lower one node; its results are in ``values`` afterwards."""
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            return
        place = place_of(node) or self._last_place
        self._last_place = place
        self.b.at(node, place, node.op_type)
        mark = len(self.b.graph.ops)
        got = self._lowered(node, mark)
        results = got if isinstance(got, list) else [got]
        self._note_sizes(node, results)
        for out, value in zip(node.outputs, results, strict=False):
            if isinstance(value, Value):
                self._check(out, value)
                if value.producer is not None and value.producer.native is node:
                    value.name = str(out.name)
            if value is not None:
                self.values[out] = value
        self.ops_of[node] = self.b.graph.ops[mark:]
        self._name_inner(node, mark)

    def _note_sizes(self, node: ir.Node, results: list[Any]) -> None:
        """A constant whose own sizes depend on a dynamic axis moves as a whole."""
        for i in _SIZES.get(node.op_type, ()):
            v = node.inputs[i] if i < len(node.inputs) else None
            if v is not None and self.values.get(v) in self.b.moving:
                for literal in results:
                    if isinstance(literal, Literal):
                        self.b.moves(literal)

    def _name_inner(self, node: ir.Node, mark: int) -> None:
        """Values inside of a spelled-out operator are named after its result: ``y:contract``."""
        named = {id(self.values.get(v)) for v in node.outputs}
        base = str(node.outputs[0].name) if node.outputs else node.op_type
        for k, op in enumerate(self.b.graph.ops[mark:]):
            for v in op.outputs:
                if id(v) not in named:
                    v.name = f"{base}:{op.kind}{k}"

    def _lowered(self, node: ir.Node, mark: int) -> Any:
        operands = [self._operand(v, node, i) for i, v in enumerate(node.inputs)]
        if node.op_type == "If" and isinstance(operands[0], Literal):
            return self._branch(node, bool(operands[0].data.flat[0]))
        row = lowering(node)
        call = Call(self.b, node, self.carrier.version(node.domain), operands)
        if row is not None and all(
            v is not None for v, n in zip(operands, node.inputs, strict=True) if n is not None
        ):
            try:
                return row(call)
            except (Declined, ValueError, KeyError, IndexError, TypeError, AssertionError) as why:
                self.declined.append((node, f"{type(why).__name__}: {why}"))
        else:
            self.declined.append((node, "no lowering"))
        self.b.drop(mark)
        given = [v for v in operands if v is not None]
        if given and all(isinstance(v, Literal) for v in given):
            folded = reference_fold(node, operands, self.carrier, self.b)
            if folded is not None:
                return folded
        return self._barrier(node, operands)

    def _operand(self, v: ir.Value | None, node: ir.Node, index: int) -> Any:
        if v is None:
            return None
        known = self.values.get(v)
        return known if known is not None else self.leaves.operand(v, node, index)

    def _branch(self, node: ir.Node, taken: bool) -> list[Any]:
        """An If whose condition is known is its branch."""
        graph = node.attributes["then_branch" if taken else "else_branch"].as_graph()
        for inner in graph:
            self.step(inner)
        self.b.at(node, self._last_place, node.op_type)
        return [self._operand(v, node, 0) for v in graph.outputs]

    def _barrier(self, node: ir.Node, operands: Sequence[Any]) -> list[Any]:
        flat: list[Value] = []
        for v in (*operands, *self._captured(node)):
            flat.extend(v if isinstance(v, list) else [v] if v is not None else [])
        # A literal operand of a barrier is not rewritable there.
        flat = [self.b.fresh(v, None) if isinstance(v, Literal) else v for v in flat]
        shapes = result_shapes(node, operands, self.carrier, self.hints)
        dtypes = [dtype_name(v.dtype) for v in node.outputs]
        op = self.b.opaque(flat, shapes, dtypes)
        return list(op.outputs)

    def _captured(self, node: ir.Node) -> list[Any]:
        """Outer values that a node's subgraphs read."""
        out: list[Any] = []
        for attribute in node.attributes.values():
            graphs = (
                [attribute.as_graph()]
                if attribute.type == ir.AttributeType.GRAPH
                else list(attribute.as_graphs())
                if attribute.type == ir.AttributeType.GRAPHS
                else []
            )
            for graph in graphs:
                read = (v for inner in graph.all_nodes() for v in inner.inputs if v is not None)
                out.extend(self.values[v] for v in read if v in self.values)
        return list(dict.fromkeys(v for v in out if isinstance(v, Value)))

    def _check(self, recorded: ir.Value, value: Value) -> None:
        """Compare with what the file states; only numbers can disagree."""
        known = recorded.shape
        if known is None:
            return
        same = len(known) == len(value.shape) and all(
            not isinstance(n, int) or n == m for n, m in zip(known, value.shape, strict=True)
        )
        made_by = value.producer
        if not same and made_by is not None and made_by.kind == "opaque":
            raise CarrierError(
                f"{recorded.name}: {made_by.where} has no semantics, and the shape of its result, "
                f"recorded as {known}, depends on the data or is not known before the model runs; cut "
                "the model before it (onnx.utils.extract_model), or record a fixed shape",
                op=made_by.origin,
                place=made_by.place,
                value=recorded.name,
            )
        if not same:
            raise CarrierError(
                f"{recorded.name}: the operators give the shape {value.shape}, the file records "
                f"{known}; if the record is stale, remove it (onnx.shape_inference writes it "
                "anew), otherwise please report this operator",
                value=recorded.name,
                place=self._last_place,
            )


# Inputs that state sizes or places, by operator type.
_SIZES: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2),
    "Pad": (1,), "Slice": (1, 2), "Split": (1,), "OneHot": (1,), "Resize": (2, 3),
}  # fmt: skip
_NOWHERE = ir.Node("", "Output", inputs=[])
