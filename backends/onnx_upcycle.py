"""Upcycling in an ONNX model: an MLP's nodes are repeated, and a router weighs the copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.backends.onnx_clone import Repeats
from meristem.backends.onnx_nodes import stand_in
from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_places import KIND, beside, placed
from meristem.carriers.onnx_values import dtype_of
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.upcycle import Mixture, UpcycleScript

# Writing by index along an axis, which the weights of a token need, is there from this opset on.
_OPSET = 11


def apply_upcycle(carrier: OnnxCarrier, script: UpcycleScript) -> OnnxCarrier:
    """A new carrier with the mixtures of ``script`` in place; the source stays as it is.

    Raises CarrierError where entry or exit of an MLP is no value of the file, or the file's opset has no
    operators that choose.
    """
    if carrier.version() < _OPSET:
        raise CarrierError(
            f"the file is of opset {carrier.version()}, and a mixture needs {_OPSET} or newer; convert it "
            "with onnx.version_converter"
        )
    return _Upcycle(carrier, script).run()


class _Upcycle(Repeats):
    script: Any

    def run(self) -> OnnxCarrier:
        """Copies first, then their readers, so that one MLP may feed another."""
        regions = [self._region(m.block) for m in self.script.mixtures]
        inside = {n for region in regions for n in region.nodes}
        self._rename(set(self.order) - inside)
        made: list[set[ir.Node]] = []
        totals: list[ir.Value] = []
        for m, region in zip(self.script.mixtures, regions, strict=True):
            own: set[ir.Node] = set()
            entry, exit_ = self._value(m.entry), self._value(m.exit)
            results = [exit_]
            results += [self._copy(e, region, entry, own) for e in m.experts[1:]]
            totals.append(self._mixed(m, entry, results, own, region.nodes[-1]))
            made.append(own)
        for m, total, own in zip(self.script.mixtures, totals, made, strict=True):
            self._hand_over(self._value(m.exit), total, own)
        self.graph.sort()
        self.editor.remove_unused()
        return replace(
            self.carrier, model=self.editor.model, path=None, normalisations=[],
            ties=self.ties, shared=frozenset(self.shared),
        )  # fmt: skip

    def _hand_over(self, old: ir.Value, new: ir.Value, made: set[ir.Node]) -> None:
        """Every reader of an MLP's result, but for its own weighing, reads the mixture's."""
        for user, i in list(old.uses()):
            if user not in made:
                user.replace_input_with(i, new)
        if old.is_graph_output():
            kept = list(old.uses())
            stand_in(self.editor, old, new)
            for user, i in kept:
                user.replace_input_with(i, old)

    def _mixed(
        self,
        m: Mixture,
        x: ir.Value,
        results: Sequence[ir.Value],
        made: set[ir.Node],
        like: ir.Node,
    ) -> ir.Value:
        """sum_e g_e y_e, with g the softmax of the ``top`` largest scores and zero elsewhere."""
        path = m.router.removesuffix(".weight")
        home = path.rpartition(".")[0]
        dtype = m.entry.dtype
        records = {at: placed(self.records[like], at) for at in (path, home)}

        def call(
            op: str,
            *inputs: ir.Value,
            at: str = home,
            attributes: Mapping[str, Any] | None = None,
            outputs: int = 1,
        ) -> list[ir.Value]:
            base = f"{path}.{op.lower()}"
            made_here = [
                ir.Value(name=self.editor.fresh_name(base if i == 0 else f"{base}_{i}"))
                for i in range(outputs)
            ]
            node = ir.node(
                op, list(inputs), attributes=dict(attributes or {}), outputs=made_here,
                name=self.editor.fresh_name(beside(str(like.name or ""), at, f"node_{base}")),
                metadata_props=records[at],
            )  # fmt: skip
            self.graph.append(node)
            made.add(node)
            return made_here

        def ints(data: Sequence[int], name: str) -> ir.Value:
            return self.editor.constant(np.asarray(data, np.int64), "int64", f"{path}.{name}")

        entries = m.drawn(self.script.seed).apply(np.zeros(m.shape))
        weight = self.editor.constant(entries, dtype, m.router)
        weight.metadata_props[KIND] = "PARAMETER"
        (turned,) = call("Transpose", weight, at=path, attributes={"perm": [1, 0]})
        (scores,) = call("MatMul", x, turned, at=path)
        best, where = call("TopK", scores, ints([m.top], "top"), outputs=2)
        (chosen,) = call("Softmax", best, attributes={"axis": -1})
        zero = ir.tensor(np.zeros(1, dtype_of(dtype).numpy()), dtype=dtype_of(dtype))
        (shape,) = call("Shape", scores)
        (zeros,) = call("ConstantOfShape", shape, attributes={"value": zero})
        (gates,) = call("ScatterElements", zeros, where, chosen, attributes={"axis": -1})
        axis = ints([-1], "axis")
        total = None
        for i, y in enumerate(results):
            ends = ints([i], f"start{i}"), ints([i + 1], f"end{i}")
            (gate,) = call("Slice", gates, *ends, axis)
            (part,) = call("Mul", y, gate)
            total = part if total is None else call("Add", total, part)[0]
        assert total is not None
        total.type, total.shape = results[0].type, results[0].shape
        return total
