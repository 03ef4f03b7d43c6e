"""Operators that a growth adds to an ONNX model: statistics over old coordinates, boundaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.backends.onnx_edits import Editor
from meristem.carriers.onnx_values import dtype_of
from meristem.rewrite.edits import BoundaryEdit, MaskEdit, StatisticsEdit
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Array, Literal


def take(
    editor: Editor, before: ir.Node, x: ir.Value, axis: int, old: Array, base: str
) -> ir.Value:
    """The old coordinates of an axis: a Slice where they are one run, else a Gather."""
    if np.array_equal(old, np.arange(old[0], old[0] + len(old))):
        start, end = int(old[0]), int(old[-1]) + 1
        if editor.source.version() < 10:
            bounds = {"starts": [start], "ends": [end], "axes": [axis]}
            return editor.insert(before, "Slice", [x], base, bounds)
        words = (("start", start), ("end", end), ("axis", axis))
        return editor.insert(
            before, "Slice", [x, *(editor.ints([n], f"{base}_{w}") for w, n in words)], base
        )
    index = editor.ints([int(n) for n in old], f"{base}_index")
    return editor.insert(before, "Gather", [x, index], base, {"axis": axis})


def statistics(editor: Editor, edit: StatisticsEdit, mask: ir.Value | None = None) -> None:
    """y = (x - mean(x_old)) / sqrt(var(x_old) + eps), gain and bias over all coordinates.

    With a ``mask`` mean and variance are over all coordinates, weighed by it.

    Every step is an operator of its own, so that gradients through mean and variance are right in
    any training runtime (docs/onnx.md).
    """
    if "reducers" in edit.op.attrs:
        for native in edit.op.attrs["reducers"]:
            node = editor.node(native)
            x = node.inputs[0]
            assert x is not None
            if mask is not None and node.op_type != "ReduceMean":
                raise OutputError(f"{edit.op.where}: masks are not written for {node.op_type}")
            base = f"{node.outputs[0].name}_old"
            node.replace_input_with(0, _counted(editor, node, x, edit, mask, base))
        return
    node = editor.node(edit.op.native)
    if node.op_type not in (
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
    ):
        raise OutputError(
            f"{edit.op.where}: statistics over old coordinates are not written for it",
            op=node.op_type,
            place=edit.op.place,
        )
    _Norm(editor, node, edit, mask).run()


def _counted(
    editor: Editor,
    node: ir.Node,
    x: ir.Value,
    edit: StatisticsEdit,
    mask: ir.Value | None,
    base: str,
) -> ir.Value:
    """What a mean is taken of: the old coordinates, or all of them times m / mean(m)."""
    if mask is None:
        return take(editor, node, x, edit.axis, edit.old, base)
    dtype = edit.op.inputs[0].dtype
    dtype = "float32" if dtype in ("float16", "bfloat16") else dtype
    m = mask_vector(editor, node, mask, edit.old, edit.size, dtype, f"{base}_mask")
    if editor.source.version() < 18:
        options = {"axes": [0], "keepdims": 1}
        mean = editor.insert(node, "ReduceMean", [m], f"{base}_mask_mean", options)
    else:
        axes = editor.ints([0], f"{base}_mask_axes")
        mean = editor.insert(node, "ReduceMean", [m, axes], f"{base}_mask_mean", {"keepdims": 1})
    m = editor.insert(node, "Div", [m, mean], f"{base}_mask_weights")
    m = along(editor, node, m, edit.axis, len(edit.op.inputs[0].shape), f"{base}_mask_axis")
    return editor.insert(node, "Mul", [x, m], f"{base}_masked")


def mask_vector(
    editor: Editor, node: ir.Node, mask: ir.Value, old: Array, size: int, dtype: str, base: str
) -> ir.Value:
    """Ones at old positions, the mask at others."""
    kind = dtype_of(dtype)
    g = mask
    if mask.dtype != kind:
        g = editor.insert(node, "Cast", [mask], f"{base}_cast", {"to": int(kind)})
    one = editor.constant(np.ones(()), dtype, f"{base}_one")
    here = np.isin(np.arange(size), old)
    parts: list[ir.Value | None] = []
    for i, run in enumerate(np.split(here, np.flatnonzero(np.diff(here)) + 1)):
        length = editor.ints([len(run)], f"{base}_size_{i}")
        value = one if run[0] else g
        parts.append(editor.insert(node, "Expand", [value, length], f"{base}_part_{i}"))
    if len(parts) == 1:
        assert parts[0] is not None
        return parts[0]
    return editor.insert(node, "Concat", parts, base, {"axis": 0})


def along(
    editor: Editor, node: ir.Node, vector: ir.Value, axis: int, rank: int, base: str
) -> ir.Value:
    """A vector as a tensor that broadcasts along one axis."""
    if axis == rank - 1:
        return vector
    shape = editor.ints([-1, *[1] * (rank - 1 - axis)], f"{base}_shape")
    return editor.insert(node, "Reshape", [vector, shape], base)


def masked(editor: Editor, edit: MaskEdit, mask: ir.Value) -> None:
    """Every reader of a stored weight reads it times the mask."""
    storage = edit.weight.native
    names = [(edit.weight.name if storage.use is not None else storage.name, False)]
    for name, turned in (*names, *storage.twins):
        value = editor.value(name)
        uses = list(value.uses())
        first = min(uses, key=lambda u: _position(editor, u[0]))[0]
        rank = len(edit.weight.shape)
        axis = rank - 1 - edit.axis if turned else edit.axis
        base = f"{name}_mask_{axis}"
        m = mask_vector(editor, first, mask, edit.old, edit.size, edit.weight.dtype, base)
        m = along(editor, first, m, axis, rank, f"{base}_axis")
        product = editor.insert(first, "Mul", [value, m], f"{name}_masked_{axis}")
        for node, i in uses:
            node.replace_input_with(i, product)


def _position(editor: Editor, node: ir.Node) -> int:
    return next(i for i, n in enumerate(editor.graph) if n is node)


class _Norm:
    """A fused norm, spelled out in front of the node that it replaces."""

    def __init__(
        self, editor: Editor, node: ir.Node, edit: StatisticsEdit, mask: ir.Value | None
    ) -> None:
        self.editor, self.node, self.edit, self.mask = editor, node, edit, mask
        self.base = str(node.outputs[0].name)

    def add(self, op: str, inputs: list[ir.Value | None], word: str, **attributes: Any) -> ir.Value:
        return self.editor.insert(self.node, op, inputs, f"{self.base}_{word}", attributes)

    def mean(self, x: ir.Value, word: str) -> ir.Value:
        """Mean over the axis, which stays as one; its number is an input from opset 18 on."""
        if self.editor.source.version() < 18:
            return self.add("ReduceMean", [x], word, axes=[self.edit.axis], keepdims=1)
        axes = self.editor.ints([self.edit.axis], f"{self.base}_{word}_axes")
        return self.add("ReduceMean", [x, axes], word, keepdims=1)

    def counted(self, x: ir.Value, word: str) -> ir.Value:
        """What a mean is taken of."""
        base = f"{self.base}_{word}"
        return _counted(self.editor, self.node, x, self.edit, self.mask, base)

    def run(self) -> None:
        editor, node, edit = self.editor, self.node, self.edit
        x = node.inputs[0]
        assert x is not None
        dtype = edit.op.inputs[0].dtype  # files need not state it
        kind = dtype_of(dtype)
        narrow = dtype in ("float16", "bfloat16")
        if narrow:  # fused norms keep their statistics in float32
            x, dtype = self.add("Cast", [x], "wide", to=int(ir.DataType.FLOAT)), "float32"
        mean = None
        if edit.op.attrs["center"]:
            mean = self.mean(self.counted(x, "old"), "mean")
            x = self.add("Sub", [x, mean], "deviation")
        var = self.mean(self.counted(self.add("Mul", [x, x], "square"), "squares"), "variance")
        total = self.add(
            "Add", [var, editor.constant(self._epsilon(), dtype, f"{self.base}_epsilon")], "sum"
        )
        root = self.add("Sqrt", [total], "root")
        y = self.add("Div", [x, root], "normal")
        if narrow:
            y = self.add("Cast", [y], "narrow", to=int(kind))
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            y = self.add("Mul", [y, node.inputs[1]], "gained")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            y = self.add("Add", [y, node.inputs[2]], "biased")
        inverse = None
        if len(node.outputs) > 2 and node.outputs[2].uses():
            inverse = self.add("Reciprocal", [root], "inverse")
        replace(editor, node, [y, mean, inverse])

    def _epsilon(self) -> float:
        attribute = self.node.attributes.get("epsilon")
        if attribute is not None:
            return float(attribute.value)
        eps = self.edit.op.inputs[1]
        assert isinstance(eps, Literal)
        return float(eps.data)


def replace(editor: Editor, node: ir.Node, values: list[ir.Value | None]) -> None:
    """Values take the place, name and record of a node's outputs; the node goes."""
    for old, new in zip(node.outputs, values, strict=False):
        if new is not None:
            stand_in(editor, old, new)
    owner = node.graph
    assert owner is not None
    owner.remove(node, safe=True)


def stand_in(editor: Editor, old: ir.Value, new: ir.Value) -> None:
    """Every user of ``old``, graph outputs included, reads ``new``, which has its name."""
    name = str(old.name)
    old.name = editor.fresh_name(f"{name}_before")
    new.name, new.type, new.shape = name, old.type, old.shape
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def boundary(editor: Editor, edit: BoundaryEdit) -> None:
    """The interface stays: outputs are read at old coordinates, inputs are padded with zeros."""
    if edit.output:
        _crop(editor, edit)
    else:
        _pad(editor, edit)


def _crop(editor: Editor, edit: BoundaryEdit) -> None:
    """The grown value is renamed and the crop takes its name; inner users keep all of it."""
    place = next(i for i, v in enumerate(editor.graph.outputs) if v.name == edit.name)
    old = editor.graph.outputs[place]
    last = editor.graph[-1]
    cropped = take(editor, last, old, edit.axis, edit.old, f"{edit.name}_cropped")
    node = cropped.producer()
    assert node is not None
    editor.graph.remove(node)
    editor.graph.append(node)
    old.name = editor.fresh_name(f"{edit.name}_grown")
    cropped.name, cropped.type, cropped.shape = edit.name, old.type, old.shape
    cropped.metadata_props.update(old.metadata_props)
    old.shape = None
    editor.graph.outputs[place] = cropped


def _pad(editor: Editor, edit: BoundaryEdit) -> None:
    """Zeros behind the operand; where old coordinates are scattered, a Gather places them."""
    x = next(v for v in editor.graph.inputs if v.name == edit.name)
    users = list(x.uses())
    if not users:
        return
    first = editor.graph[0]
    rank = len(x.shape or ())
    n = len(edit.old)
    prefix = np.array_equal(edit.old, np.arange(n))
    count = edit.size - n if prefix else 1
    pads = [0] * (2 * rank)
    pads[rank + edit.axis] = count
    base = f"{edit.name}_padded"
    if editor.source.version() < 11:
        y = editor.insert(first, "Pad", [x], base, {"mode": "constant", "pads": pads})
    else:
        y = editor.insert(
            first, "Pad", [x, editor.ints(pads, f"{base}_pads")], base, {"mode": "constant"}
        )
    if not prefix:
        index = np.full(edit.size, n, np.int64)
        index[edit.old] = np.arange(n)
        table = editor.ints([int(i) for i in index], f"{base}_index")
        y = editor.insert(first, "Gather", [y, table], f"{base}_placed", {"axis": edit.axis})
    for node, i in users:
        node.replace_input_with(i, y)
