"""A builder that computes what depends on constants alone.

Exported files hold arithmetic of shapes, position ids and masks as operators. Every operator whose
operands are all literals is evaluated at once and becomes a literal itself, so none of that reaches
the analysis, without a separate pass over the file (docs/onnx.md). The carrier keeps those operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Array, Literal, Op, Slot, Value
from meristem.rewrite.registry import semantics
from meristem.rewrite.semantics.elementwise import Row

# Kinds that place entries without mixing them.
_MOVES = frozenset({"identity", "reshape", "permute", "expand", "slice", "concat", "rearrange"})
Site = tuple[Any, str, str]  # native node, place, origin


@dataclass
class _Filled:
    """How a constant-valued tensor is made again: at which node, with which addresses."""

    slots: dict[str, Slot]
    site: Site
    value: Value | None = None


class FoldingBuilder(Builder):
    """``Builder`` with constant folding.

    ``moving`` says which entries of a literal depend on the size of a dynamic axis: they hold for
    the hints only, so such a literal has no slot. ``filled`` remembers tensors made of a shape and
    one number: they are built again as an operator where a real one uses them, since their sizes
    can then be rewritten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moving: dict[Literal, Array] = {}
        self.filled: dict[Literal, _Filled] = {}
        self._roots: dict[Literal, tuple[Literal, int]] = {}

    def literal(self, data: Any, dtype: str, role: Any = None) -> Literal:
        """A constant; it enters the graph when an operator that stays uses it."""
        array = np.asarray(data)
        if dtype.startswith(("float", "bfloat")) and array.dtype.kind != "O":
            array = array.astype(np.float64)
        self._count += 1
        slot = None if role is None else self.slot(role)
        return Literal(f"literal{self._count}", array.shape, dtype, data=array, slot=slot)

    def fresh(self, known: Literal, role: Any) -> Literal:
        """The same constant as an operand of the current node, rewritable there."""
        out = self.literal(known.data, known.dtype, None if known in self.moving else role)
        out.implicit = known.implicit
        if known in self.moving:
            self.moving[out] = self.moving[known]
        if known in self.filled:
            self.filled[out] = self.filled[known]
        if known in self._roots:
            self._roots[out] = self._roots[known]
        return out

    def emit(
        self,
        kind: str,
        inputs: Sequence[Value],
        attrs: dict[str, Any] | None = None,
        slots: dict[str, Slot] | None = None,
    ) -> Op:
        if kind != "opaque" and all(isinstance(v, Literal) for v in inputs):
            return self._fold(kind, inputs, attrs or {}, slots or {})
        settled = [self._settle(v) if isinstance(v, Literal) else v for v in inputs]
        op = super().emit(kind, settled, attrs, slots)
        self._note_bound(op)
        return op

    def _fold(
        self, kind: str, inputs: Sequence[Value], attrs: dict[str, Any], slots: dict[str, Slot]
    ) -> Op:
        entry = semantics(kind)
        op = Op(kind, tuple(inputs), attrs, [], self._native, self._place, self._origin, slots)
        dtype = entry.dtype(inputs, attrs)
        for i, shape in enumerate(entry.shape(inputs, attrs)):
            op.outputs.append(Value("", tuple(shape), dtype, op, i))
        arrays: list[Array] = [v.data for v in inputs]  # type: ignore[attr-defined]
        got = [self.literal(a, dtype) for a in entry.evaluate(op, *arrays)]
        if any(v in self.moving for v in inputs):
            for literal in got:
                self.moves(literal, self._moved(op, literal))
        if kind in ("full", "expand") and got[0].data.size > 1:
            self._note_filled(got[0], inputs, slots)
        op.outputs = list(got)
        self._note_bound(op)
        return op

    def _note_bound(self, op: Op) -> None:
        """A stored constant that is read up to a dynamic size bounds it.

        Followed through slices and broadcasts, which may add axes in front.
        """
        if op.kind not in ("slice", "take", "take_along", "expand"):
            return
        known, at = op.inputs[0], op.attrs
        if not isinstance(known, Literal):
            return
        root, added = self._roots.get(known, (known, 0))
        if op.kind == "expand":
            added += len(op.output.shape) - len(known.shape)
        if op.kind in ("slice", "expand"):
            self._roots[op.outputs[0]] = root, added  # type: ignore[index]
        axis = at.get("axis", 0) - added
        part = {
            "slice": at.get("dynamic") and at.get("start") == 0 and at.get("step", 1) == 1,
            "expand": False,
        }.get(op.kind, op.inputs[-1] in self.moving or not isinstance(op.inputs[-1], Literal))
        if part and axis >= 0 and root.slot is not None and root not in self.moving:
            self.graph.bounds.append((root, axis))

    def moves(self, literal: Literal, which: Array | bool = True) -> Literal:
        """Note which entries of a constant depend on the size of a dynamic axis."""
        mask = np.broadcast_to(np.asarray(which, np.bool_), literal.shape)
        if mask.any():
            self.moving[literal] = mask
        return literal

    def _moved(self, op: Op, result: Literal) -> Array | bool:
        """The entries of a result that a moving entry reaches."""
        masks = [self.moving.get(v, np.zeros(v.shape, np.bool_)) for v in op.inputs]  # type: ignore[call-overload]
        if op.kind in _MOVES:
            return np.asarray(semantics(op.kind).evaluate(op, *masks)[0])
        if op.kind == "take" and not masks[1].any():
            index = op.inputs[1].data  # type: ignore[attr-defined]
            return np.asarray(semantics(op.kind).evaluate(op, masks[0], index)[0])
        shapes = [m.shape for m in masks]
        if isinstance(semantics(op.kind), Row) and np.broadcast_shapes(*shapes) == result.shape:
            return np.asarray(np.any([np.broadcast_to(m, result.shape) for m in masks], axis=0))
        return True

    def _note_filled(self, got: Literal, inputs: Sequence[Value], slots: dict[str, Slot]) -> None:
        if not inputs or inputs[0].shape == () or inputs[0].data.size == 1:  # type: ignore[attr-defined]
            self.filled[got] = _Filled(slots, (self._native, self._place, self._origin))

    def _settle(self, v: Literal) -> Value:
        """The operand as it stays in the graph."""
        recipe = self.filled.get(v)
        if recipe is None:
            if not v.uses:
                self.graph.literals.append(v)
            return v
        if recipe.value is None:  # one operator for all uses, as in the file
            here = (self._native, self._place, self._origin)
            self.at(*recipe.site)
            attrs = {"shape": v.shape, "value": v.data.flat[0], "dtype": v.dtype}
            recipe.value = super().emit("full", [], attrs, recipe.slots).output
            self.at(*here)
        return recipe.value

    def drop(self, mark: int) -> None:
        """Forget the operators from the ``mark``-th on: a lowering declined, or is done again."""
        gone = self.graph.ops[mark:]
        for op in gone:
            for i, v in enumerate(op.inputs):
                v.uses.remove((op, i))
        for recipe in self.filled.values():
            if recipe.value is not None and recipe.value.producer in gone:
                recipe.value = None
        del self.graph.ops[mark:]
