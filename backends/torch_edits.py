"""Single edits on an fx graph: sizes, literals, norms over old coordinates, boundaries."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import fx

from meristem.carriers.torch_carrier import TorchCarrier
from meristem.rewrite.edits import BoundaryEdit, LiteralEdit, MaskEdit, SizeEdit, StatisticsEdit
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.rewrite.repeat import ConvEdit

aten = torch.ops.aten
_OPEN = 1 << 62  # an end beyond this means "to the end", at any size


class GraphEditor:
    """Edits a copy of the program's graph; native nodes are found by name."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.nodes = {n.name: n for n in graph.nodes}
        self.computing = {n.name for n in graph.nodes if n.op not in ("placeholder", "output")}

    def node(self, native: fx.Node) -> fx.Node:
        return self.nodes[native.name]

    # -- sizes and literals -------------------------------------------------------------------------

    def size(self, edit: SizeEdit, tensors: dict[str, torch.Tensor], carrier: TorchCarrier) -> None:
        """A number among the arguments; -1 follows by itself, an expression is multiplied."""
        if edit.slot.role == ("constant",):
            self.literal(LiteralEdit(edit.slot, np.full(1, edit.new)), tensors, carrier)
            return
        node = self.node(edit.slot.native)
        *path, last = (*edit.slot.role, *([edit.index] if edit.index is not None else []))
        old = _get(node, (*path, last))
        if isinstance(old, int) and (old > _OPEN or (old < 0 and edit.index is not None)):
            return
        if isinstance(old, fx.Node):
            with self.graph.inserting_before(node):
                up = self.graph.call_function(operator.mul, (old, edit.new))
                new: Any = self.graph.call_function(operator.floordiv, (up, edit.old))
        else:
            new = edit.new
        _set(node, (*path, last), new)

    def literal(
        self, edit: LiteralEdit, tensors: dict[str, torch.Tensor], carrier: TorchCarrier
    ) -> None:
        """A scalar argument, or a constant tensor by the name that its placeholder has."""
        node = self.node(edit.slot.native)
        if edit.slot.role == ("constant",):
            name = next(t for n, t, _, _ in carrier.stored() if n.name == node.name)
            old = tensors[name]
            tensors[name] = torch.from_numpy(np.ascontiguousarray(edit.data)).to(old.dtype)
            return
        _set(node, edit.slot.role, float(edit.data))

    # -- norms --------------------------------------------------------------------------------------

    def statistics(self, edit: StatisticsEdit, mask: fx.Node | None = None) -> None:
        """y = (x - mean(x_old)) / sqrt(var(x_old) + eps), then gain and bias over all coordinates.

        With a ``mask`` mean and variance are over all coordinates, weighed by it. Spelled out, because
        the mean and rstd results of native_layer_norm are not differentiated (docs/onnx.md).
        """
        if "reducers" in edit.op.attrs:
            self._reduce_old(edit, mask)
            return
        node = self.node(edit.op.native)
        schema = {a.name: i for i, a in enumerate(node.target._schema.arguments)}  # type: ignore[union-attr]
        if "normalized_shape" not in schema:
            raise CarrierError(
                f"{edit.op.where}: statistics over old coordinates are not written for it"
            )

        def arg(name: str) -> Any:
            i = schema.get(name)
            return (
                None
                if i is None
                else (node.args[i] if i < len(node.args) else node.kwargs.get(name))
            )

        x, weight, bias = arg("input"), arg("weight"), arg("bias")
        stated = arg("eps")  # after the constants of the same growth have been written
        eps = float(edit.op.inputs[1].data if stated is None else stated)  # type: ignore[attr-defined]
        kind = edit.op.inputs[0].dtype
        narrow = kind in ("float16", "bfloat16")  # fused norms compute in float32
        with self.graph.inserting_before(node):
            call = self._caller(node)
            if narrow:
                x = call(aten._to_copy.default, x, dtype=torch.float32)
            axis = [edit.axis]
            y = x
            if edit.op.attrs["center"]:
                mean = call(aten.mean.dim, self._counted(call, x, edit, mask), axis, True)
                y = call(aten.sub.Tensor, x, mean)
            square = call(aten.mul.Tensor, y, y)
            var = call(aten.mean.dim, self._counted(call, square, edit, mask), axis, True)
            rstd = call(aten.rsqrt.default, call(aten.add.Tensor, var, eps))
            y = call(aten.mul.Tensor, y, rstd)
            if weight is not None:
                y = call(aten.mul.Tensor, y, weight)
            if bias is not None:
                y = call(aten.add.Tensor, y, bias)
            if narrow:
                y = call(aten._to_copy.default, y, dtype=getattr(torch, kind))
        node.replace_all_uses_with(y)
        self.graph.erase_node(node)

    def _reduce_old(self, edit: StatisticsEdit, mask: fx.Node | None) -> None:
        """A norm that is spelled out: its reductions read the old coordinates, or weighed ones."""
        for native in edit.op.attrs["reducers"]:
            node = self.node(native)
            if mask is not None and node.target is not aten.mean.dim:
                raise CarrierError(f"{edit.op.where}: masks are not written for {node.target}")
            x = node.args[0]
            with self.graph.inserting_before(node):
                old = self._counted(self._caller(node), x, edit, mask)
            node.replace_input_with(x, old)  # type: ignore[arg-type]

    def _counted(self, call: Any, x: Any, edit: StatisticsEdit, mask: fx.Node | None) -> Any:
        """What a mean is taken of: the old coordinates, or all of them times m / mean(m)."""
        if mask is None:
            return self._take(call, x, edit.axis, edit.old, edit.size)
        kind = edit.op.inputs[0].dtype
        kind = "float32" if kind in ("float16", "bfloat16") else kind
        weights = self._mask_vector(call, mask, edit.old, edit.size, kind)
        weights = call(aten.div.Tensor, weights, call(aten.mean.dim, weights, [0], True))
        return call(
            aten.mul.Tensor, x, self._along(call, weights, edit.axis, len(edit.op.inputs[0].shape))
        )

    # -- masks --------------------------------------------------------------------------------------

    def mask(self, edit: MaskEdit, names: Iterable[str], mask: fx.Node) -> None:
        """Every reader of a stored weight reads it times the mask."""
        for name in names:
            node = self.nodes[name]
            users = list(node.users)
            with self.graph.inserting_before(self._first()):
                call = self._caller(node)
                vector = self._mask_vector(call, mask, edit.old, edit.size, edit.weight.dtype)
                vector = self._along(call, vector, edit.axis, len(edit.weight.shape))
                masked = call(aten.mul.Tensor, node, vector)
            for user in users:
                user.replace_input_with(node, masked)
            self.nodes[name] = masked  # along a second axis

    def _first(self) -> fx.Node:
        """The first node that computes, but for masks."""
        return next(n for n in self.graph.nodes if n.name in self.computing)

    def _mask_vector(self, call: Any, mask: fx.Node, old: Array, size: int, dtype: str) -> fx.Node:
        """Ones at old positions, the mask at others."""
        kind, val = getattr(torch, dtype), mask.meta["val"]
        options = {"dtype": kind, "device": val.device, "pin_memory": False}
        one = call(aten.full.default, [1], 1.0, **options)
        g = call(aten.view.default, mask, [1])
        if kind != val.dtype:
            g = call(aten._to_copy.default, g, dtype=kind)
        here = np.isin(np.arange(size), old)
        runs = np.split(here, np.flatnonzero(np.diff(here)) + 1)
        parts = [call(aten.expand.default, one if r[0] else g, [len(r)]) for r in runs]
        return parts[0] if len(parts) == 1 else call(aten.cat.default, parts, 0)  # type: ignore[no-any-return]

    def _along(self, call: Any, vector: fx.Node, axis: int, rank: int) -> fx.Node:
        """A vector as a tensor that broadcasts along one axis."""
        if axis == rank - 1:
            return vector
        return call(aten.view.default, vector, [-1, *[1] * (rank - 1 - axis)])  # type: ignore[no-any-return]

    def _caller(self, like: fx.Node) -> Any:
        """Insert calls that carry the metadata of the node they stand for."""

        def call(target: Any, *args: Any, **options: Any) -> fx.Node:
            node = self.graph.call_function(target, args, options)
            for key in ("nn_module_stack", "stack_trace", "torch_fn", "custom"):
                if key in like.meta:
                    node.meta[key] = like.meta[key]
            return node

        return call

    def _take(self, call: Any, x: fx.Node, axis: int, old: Array, size: int) -> fx.Node:
        """Old coordinates: a slice where they are a prefix, else their runs side by side."""
        runs = np.split(old, np.flatnonzero(np.diff(old) != 1) + 1)
        parts = [call(aten.slice.Tensor, x, axis, int(r[0]), int(r[-1]) + 1) for r in runs]
        if len(parts) == 1:
            return parts[0]  # type: ignore[no-any-return]
        return call(aten.cat.default, parts, axis)  # type: ignore[no-any-return]

    # -- boundary -----------------------------------------------------------------------------------

    def boundary(self, edit: BoundaryEdit, outputs: list[str]) -> None:
        """Crop an output to its old coordinates, or pad an input with zeros."""
        if edit.output:
            output = next(n for n in self.graph.nodes if n.op == "output")
            values = list(output.args[0])
            name = edit.name
            for i, value in enumerate(values):
                if outputs[i] == name and isinstance(value, fx.Node):
                    with self.graph.inserting_before(output):
                        values[i] = self._take(
                            self._caller(value), value, edit.axis, edit.old, edit.size
                        )
            output.args = (tuple(values),)
            return
        node = self.nodes[edit.name]
        users = list(node.users)
        first = next(n for n in self.graph.nodes if n.op != "placeholder")
        with self.graph.inserting_before(first):
            padded = self._spread(self._caller(node), node, edit)
        for user in users:
            user.replace_input_with(node, padded)

    def _spread(self, call: Any, x: fx.Node, edit: BoundaryEdit) -> fx.Node:
        """Zeros between and after the runs of old coordinates."""
        rank = x.meta["val"].dim()
        cuts = np.flatnonzero(np.diff(edit.old) != 1) + 1
        ends = [*cuts.tolist(), len(edit.old)]
        parts, start = [], 0
        for i, end in enumerate(ends):
            piece = x if len(ends) == 1 else call(aten.slice.Tensor, x, edit.axis, start, end)
            upto = int(edit.old[ends[i]]) if i + 1 < len(ends) else edit.size
            count = upto - int(edit.old[end - 1]) - 1
            pad = [0, 0] * (rank - 1 - edit.axis) + [0, count]
            parts.append(call(aten.constant_pad_nd.default, piece, pad) if count else piece)
            start = end
        return parts[0] if len(parts) == 1 else call(aten.cat.default, parts, edit.axis)


def set_convolution(node: fx.Node, edit: ConvEdit) -> None:
    """Stride and dilation 1, an odd kernel padded to keep sizes, and groups: arguments of a copied node.

    Raises CarrierError for operators that are no plain convolution.
    """
    names = [a.name for a in getattr(getattr(node.target, "_schema", None), "arguments", [])]
    text = "padding" in str(node.target).split(".")  # its padding is a word
    ones = [1] * len(edit.kernel)
    wanted: dict[str, Any] = {
        "stride": ones,
        "padding": "same" if text else [k // 2 for k in edit.kernel],
        "dilation": ones,
        "groups": edit.groups,
    }
    if not set(wanted) <= set(names):
        raise CarrierError(
            f"{edit.op.where} is no convolution that can be repeated", op=edit.op.origin
        )
    for name, value in wanted.items():
        i = names.index(name)
        if i < len(node.args):
            node.args = (*node.args[:i], value, *node.args[i + 1 :])
        else:
            node.kwargs = {**node.kwargs, name: value}


def _get(node: fx.Node, path: tuple[Any, ...]) -> Any:
    at: Any = node
    for step in path:
        if at is node:
            at = node.args if step == "args" else node.kwargs
        elif isinstance(at, dict):
            at = at.get(step)
        else:
            at = at[step]
    return at


def _set(node: fx.Node, path: tuple[Any, ...], value: Any) -> None:
    kind, key, *rest = path

    def replaced(container: Any, steps: list[Any]) -> Any:
        if not steps:
            return value
        out = list(container)
        out[steps[0]] = replaced(out[steps[0]], steps[1:])
        return out

    if kind == "args":
        args = list(node.args)
        args[key] = replaced(args[key], rest)
        node.args = tuple(args)
    else:
        kwargs = dict(node.kwargs)
        kwargs[key] = replaced(kwargs.get(key), rest)
        node.kwargs = kwargs
