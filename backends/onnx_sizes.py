"""Sizes in an ONNX model: rewritten only where they do not follow by themselves.

A dynamic export reads most sizes from other tensors (``Shape``, slices up to the end, ``-1``), so
after the weights have grown many vectors are right already. The edited model is lowered again, node
by node; where a node's sizes differ from what the growth needs, its constants are replaced before
it is lowered a second time (docs/onnx.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.backends.onnx_edits import Editor
from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_lower import Lowering
from meristem.carriers.onnx_values import stored
from meristem.rewrite.edits import SizeEdit
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Array, Literal, Op, Value

# Nodes through which an entry of a vector passes unchanged.
_PLAIN = frozenset({"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})


class Resizer(Lowering):
    """The pass over the edited model."""

    def __init__(
        self,
        editor: Editor,
        carrier: OnnxCarrier,
        before: Lowering,
        edits: Sequence[SizeEdit],
        rewritten: set[tuple[ir.Node, Any]],
    ) -> None:
        self.editor, self.before, self.rewritten = editor, before, rewritten
        self.origin = {new: old for old, new in editor.pairs().items()}
        self.wanted: dict[ir.Node, list[SizeEdit]] = {}
        for e in edits:
            self.wanted.setdefault(editor.node(e.slot.native), []).append(e)
        self._tolerated = {editor.node(n) for n, _ in before.declined}
        self._live = _reachable(before)
        self._vectors: dict[Any, ir.Value] = {}
        super().__init__(carrier, before.hints)

    def _check(self, recorded: ir.Value, value: Value) -> None:
        """Records are those of the old model."""

    def step(self, node: ir.Node) -> None:
        self._keep_numbers(node)
        edits = [*self.wanted.get(node, []), *self._kept(node)]
        for force in (False, True):
            mark = len(self.graph.ops)
            super().step(node)
            open_ = [e for e in edits if not self._satisfied(node, e)]
            declined = self._declines(node)
            if not open_ and not declined:
                break
            self._retract(node, mark)
            self._write(node, open_ or edits, force=force)
        else:
            super().step(node)
            open_ = [e for e in edits if not self._satisfied(node, e)]
            if open_ or self._declines(node):
                raise OutputError(
                    f"{node.op_type} {node.name or ''} cannot be given the sizes "
                    f"{[(e.old, e.new) for e in open_ or edits]}; please report this operator",
                    op=node.op_type,
                    place=self._last_place,
                )
        _follow_heads(self.editor, node, self.values)

    def _declines(self, node: ir.Node) -> bool:
        return node not in self._tolerated and any(n is node for n, _ in self.declined[-1:])

    def _retract(self, node: ir.Node, mark: int) -> None:
        self.b.drop(mark)
        self.declined = [(n, w) for n, w in self.declined if n is not node]
        for v in node.outputs:
            self.values.pop(v, None)

    def _kept(self, node: ir.Node) -> list[SizeEdit]:
        """Sizes that must stay: some follow what grows although they should not."""
        old = self.origin.get(node)
        known = {(e.slot.role, e.index) for e in self.wanted.get(node, ())}
        out = []
        for op in self.before.ops_of.get(old, ()) if old is not None else ():
            if op not in self._live:
                continue
            for name, slot in op.slots.items():
                if slot.native is not old:
                    continue
                for index, size in _sizes_at(op, name):
                    if (slot.role, index) not in known:
                        out.append(SizeEdit(slot, index, size, size))
        return out

    # -- does a size follow by itself? ---------------------------------------------------------

    def _satisfied(self, node: ir.Node, edit: SizeEdit) -> bool:
        """Is the size at the edit's slot what the growth needs?"""
        for op in self.ops_of.get(node, ()):
            for name, slot in op.slots.items():
                if slot.role == edit.slot.role and slot.native is node:
                    return _states(op, name, edit)
        value = self.values.get(node.outputs[0])
        made = edit.slot.role[0] in ("shape", "arange") and edit.index is not None
        if isinstance(value, Value) and made:
            # folded: a tensor made of its shape; or a table that has become a reshape
            return value.shape[edit.index : edit.index + 1] == (edit.new,)
        return False

    # -- writing -------------------------------------------------------------------------------

    def _write(self, node: ir.Node, edits: Sequence[SizeEdit], *, force: bool) -> None:
        vectors: dict[int, dict[int, int]] = {}
        filled: dict[int, dict[int, int]] = {}
        pieces: dict[int, int] = {}
        for e in edits:
            role, index = e.slot.role, e.index
            if role[0] == "map":
                role, index = dict(role[1]).get(index), None
                if role is None:
                    continue
            kind, *rest = role
            if kind == "attr":
                self.editor.set_attribute(node, rest[0], e.new)
            elif kind == "attr_entries":
                self._attribute_entry(node, rest[0], index or 0, e.new)
            elif kind == "attr_entry":
                self._attribute_entry(node, rest[0], rest[1], e.new)
            elif kind == "split":
                pieces[rest[1]] = e.new
            elif kind == "shape":
                assert index is not None
                if index >= rest[1]:
                    vectors.setdefault(rest[0], {})[index - rest[1]] = e.new
            elif kind == "entry":
                vectors.setdefault(rest[0], {})[rest[1]] = e.new
            elif kind == "scalar":
                vectors.setdefault(rest[0], {})[0] = e.new
            elif kind == "filled":
                assert index is not None
                filled.setdefault(rest[0], {})[index] = e.new
            elif kind == "arange":
                self._arange(node, rest[1], edits)
                break
            else:
                raise OutputError(f"sizes at {role} of {node.op_type} cannot be rewritten")
        if pieces:
            self._pieces(node, pieces)
        for i, entries in vectors.items():
            self._vector_input(node, i, entries, force=force)
        for i, sizes in filled.items():
            self._refill(node, i, sizes)

    def _refill(self, node: ir.Node, i: int, sizes: Mapping[int, int]) -> None:
        """A constant tensor of one number, of other sizes."""
        known = self._operand(node.inputs[i], node, i)
        data = np.asarray(known.data)
        shape = [sizes.get(a, n) for a, n in enumerate(data.shape)]
        name = f"{node.outputs[0].name}_filled"
        full = np.full(shape, data.flat[0], data.dtype)
        node.replace_input_with(i, self.editor.constant(full, known.dtype, name))

    def _attribute_entry(self, node: ir.Node, name: str, k: int, new: int) -> None:
        numbers = [int(n) for n in node.attributes[name].value]
        numbers[k] = new
        self.editor.set_attribute(node, name, numbers)

    def _pieces(self, node: ir.Node, pieces: Mapping[int, int]) -> None:
        """A count or one size can only say equal pieces, so they become a vector."""
        given = len(node.inputs) > 1 and node.inputs[1] is not None
        if given and self._known(node, 1).ndim:
            self._vector_input(node, 1, dict(pieces), force=True)
            return
        old = self.origin[node]
        axis = int(old.attributes["axis"].value) if "axis" in old.attributes else 0
        made = [self.before.values[v] for v in old.outputs]
        made = made[0] if isinstance(made[0], list) else made  # a sequence
        sizes = [pieces.get(k, int(v.shape[axis])) for k, v in enumerate(made)]
        if "split" in node.attributes or self.carrier.version() < 13:
            self.editor.set_attribute(node, "split", sizes)
            return
        node.attributes.pop("num_outputs", None)
        if len(node.inputs) < 2:
            node.resize_inputs(2)
        node.replace_input_with(1, self.editor.ints(sizes, f"{node.outputs[0].name}_sizes"))

    def _arange(self, node: ir.Node, axis: int, edits: Sequence[SizeEdit]) -> None:
        """A node that reads every entry in order by a table becomes the Reshape that it is."""
        old = self.origin[node].outputs[0]
        here, there = self.before.values[old].shape, self._elsewhere.values[old].shape
        grown = {e.index: e.new for e in edits}
        shape = []
        for k, (n, m) in enumerate(zip(here, there, strict=True)):
            dynamic = 0 if k < axis else -1  # axes before the table's stand where they stood
            shape.append(grown.get(k, int(n)) if n == m else dynamic)
        if shape.count(-1) > 1:
            raise OutputError(
                f"{node.op_type} {node.name or ''} reads by a table of several dynamic axes",
                op=node.op_type,
            )
        node.op_type = "Reshape"
        node.attributes.clear()
        node.replace_input_with(1, self.editor.ints(shape, f"{node.outputs[0].name}_shape"))

    def _known(self, node: ir.Node, i: int) -> Array:
        got = self._operand(node.inputs[i], node, i)
        if not isinstance(got, Literal):
            raise OutputError(f"the sizes of {node.op_type} {node.name or ''} depend on data")
        return got.data

    def _vector_input(self, node: ir.Node, i: int, entries: dict[int, int], *, force: bool) -> None:
        """Give an input vector new entries; the ones that infer or broadcast stay unless forced."""
        raw = self._known(node, i).ravel()
        if not force:
            idle = (0, -1, 1) if node.op_type == "Expand" else (0, -1)
            if node.op_type in ("Reshape", "Expand"):
                entries = {k: n for k, n in entries.items() if int(raw[k]) not in idle}
        entries = {k: n for k, n in entries.items() if int(raw[k]) != n}
        if entries:
            old = node.inputs[i]
            assert old is not None
            node.replace_input_with(i, self._vector(node, old, entries))

    def _vector(self, node: ir.Node, v: ir.Value, entries: Mapping[int, int]) -> ir.Value:
        """A value that holds ``v`` with some entries replaced, computed before ``node``."""
        key = (v, tuple(sorted(entries.items())))
        known = self._vectors.get(key)
        if known is not None and known.graph is node.graph:
            return known
        out = self._vectors[key] = self._edited(node, v, entries)
        return out

    def _edited(self, node: ir.Node, v: ir.Value, entries: Mapping[int, int]) -> ir.Value:
        tensor = stored(v)
        base = f"{v.name}_grown"
        if tensor is not None:
            data = np.array(tensor.numpy())
            flat = data.reshape(-1)
            for k, n in entries.items():
                flat[k] = n
            return self.editor.constant(data, "int32" if data.dtype == np.int32 else "int64", base)
        producer = v.producer()
        if producer is not None and producer.op_type == "Concat":
            return self._concat(node, producer, entries, base)
        if producer is not None and producer.op_type in _PLAIN and producer.inputs[0] is not None:
            inner = self._vector(node, producer.inputs[0], entries)
            return self._added(
                node,
                producer.op_type,
                [inner, *producer.inputs[1:]],
                base,
                {k: a.value for k, a in producer.attributes.items()},
            )
        return self._scaled(node, v, entries, base)

    def _concat(
        self, node: ir.Node, producer: ir.Node, entries: Mapping[int, int], base: str
    ) -> ir.Value:
        inputs: list[ir.Value | None] = []
        start = 0
        for i, piece in enumerate(producer.inputs):
            assert piece is not None
            size = self._known(producer, i).size
            own = {k - start: n for k, n in entries.items() if start <= k < start + size}
            inputs.append(self._vector(node, piece, own) if own else piece)
            start += size
        return self._added(node, "Concat", inputs, base, {"axis": 0})

    def _scaled(
        self, node: ir.Node, v: ir.Value, entries: Mapping[int, int], base: str
    ) -> ir.Value:
        """Anything else is multiplied: exact, because sizes are products."""
        now = self.values.get(v)
        if not isinstance(now, Literal):
            raise OutputError(f"the sizes of {node.op_type} {node.name or ''} depend on data")
        num, den = np.ones(now.data.size, np.int64), np.ones(now.data.size, np.int64)
        for k, n in entries.items():
            old = int(now.data.reshape(-1)[k])
            common = gcd(old, n) or 1
            num[k], den[k] = n // common, old // common
        kind = "int32" if v.dtype == ir.DataType.INT32 else "int64"
        up = self.editor.constant(num.reshape(now.data.shape), kind, f"{base}_num")
        down = self.editor.constant(den.reshape(now.data.shape), kind, f"{base}_den")
        return self._added(node, "Div", [self._added(node, "Mul", [v, up], base), down], base)

    def _added(
        self,
        node: ir.Node,
        op: str,
        inputs: list[ir.Value | None],
        base: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        out = self.editor.insert(node, op, inputs, base, attributes)
        made = out.producer()
        assert made is not None
        super().step(made)
        return out

    # -- numbers that a program computes from sizes --------------------------------------------

    def _keep_numbers(self, node: ir.Node) -> None:
        """A float computed from a size that grew (a scale of 1/sqrt(d)) keeps its old value."""
        old = self.origin.get(node)
        if old is None or self._folds(old):
            return
        for i, (v, w) in enumerate(zip(node.inputs, old.inputs, strict=False)):
            if v is None or w is None or (old, ("input", i)) in self.rewritten:
                continue
            now, then = self.values.get(v), self.before.values.get(w)
            if not (isinstance(now, Literal) and isinstance(then, Literal) and then.is_float):
                continue
            if then.data.size != 1 or np.array_equal(now.data, then.data):
                continue
            if then in self.before.b.moving and not self._steady(w, then):
                raise OutputError(
                    f"{old.op_type} {old.name or ''} uses a number that depends on a "
                    "dynamic size and on one that grows",
                    op=old.op_type,
                )
            self.editor.replace_constant(node, i, then.data, then.dtype)

    @cached_property
    def _elsewhere(self) -> Lowering:
        """The old model at other sizes of the dynamic axes."""
        hints = {k: n + 6 for k, n in self.before.hints.items()}
        return Lowering(self.before.carrier, hints).run()

    def _folds(self, old: ir.Node) -> bool:
        return all(isinstance(self.before.values.get(v), Literal) for v in old.outputs if v.name)

    def _steady(self, value: ir.Value, then: Literal) -> bool:
        """Is the number the same at other sizes of the dynamic axes?"""
        other = self._elsewhere.values.get(value)
        return isinstance(other, Literal) and bool(np.array_equal(other.data, then.data))


def _reachable(lowering: Lowering) -> set[Op]:
    """Operators that an output depends on."""
    seen: set[Op] = set()
    stack = [v.producer for _, v in lowering.graph.outputs]
    while stack:
        op = stack.pop()
        if op is not None and op not in seen:
            seen.add(op)
            stack.extend(v.producer for v in op.inputs)
    return seen


def _sizes_at(op: Op, name: str) -> list[tuple[int | None, int]]:
    """(index, size) of everything that an operator's slot stands for."""
    if name == "shape":
        axes = op.attrs.get("entries", range(len(op.output.shape)))
        return [(i, int(op.output.shape[a])) for i, a in enumerate(axes)]
    if name == "pads":
        pads = op.attrs["pads"]
        return [(i, int(pads[a][side])) for (a, side), i in op.attrs["places"].items()]
    if name == "length":
        return [(None, int(op.output.shape[op.attrs["axis"]]))]
    if name == "groups":
        return [(None, int(op.inputs[1].shape[0]))]
    if op.kind == "range":
        return [(None, int(op.attrs["start"] + op.attrs["step"] * op.attrs["length"]))]
    return [(None, int(op.attrs[name]))]


def _states(op: Op, name: str, edit: SizeEdit) -> bool:
    """Is the size that an operator's slot stands for the new one?"""
    if (
        name == "end" and op.kind == "slice"
    ):  # a strided slice may end anywhere behind its last coordinate
        end = min(edit.new, op.inputs[0].shape[op.attrs["axis"]])
        return len(range(op.attrs["start"], end, op.attrs.get("step", 1))) == len(
            range(op.attrs["start"], op.attrs["end"], op.attrs.get("step", 1))
        )
    return (edit.index, edit.new) in _sizes_at(op, name)


def _follow_heads(editor: Editor, node: ir.Node, values: Mapping[ir.Value, Any]) -> None:
    """Head counts that a fused operator repeats although its operands show them."""
    names = {"RotaryEmbedding": ("num_heads",), "Attention": ("q_num_heads", "kv_num_heads")}
    for i, name in enumerate(names.get(node.op_type, ())):
        x, known = values.get(node.inputs[i]), node.attributes.get(name)  # type: ignore[arg-type]
        if not isinstance(x, Value) or len(x.shape) != 4 or known is None or not known.value:
            continue
        if int(known.value) != x.shape[1]:
            editor.set_attribute(node, name, int(x.shape[1]))
