"""Building the view over an ONNX carrier."""

from __future__ import annotations

from collections.abc import Mapping

from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_lower import Lowering
from meristem.rewrite.graph import Graph
from meristem.rewrite.idioms import simplify


def view_onnx(carrier: OnnxCarrier, hints: Mapping[str, int] | None = None) -> Graph:
    """The view of a model, its dynamic axes at ``hints`` (by symbol; defaults are primes).

    Building it again with other hints gives the same operators at other sizes.
    """
    lowering = Lowering(carrier, hints).run()
    _mark_dynamic(carrier, lowering)
    graph = simplify(lowering.graph)
    live = {id(op.native) for op in graph.ops}
    cut = sum(id(n) not in live and n.op_type not in _SILENT for n in carrier.graph)
    if cut:
        carrier.note(
            f"{cut} operators that compute sizes, positions or masks from constants, or that an "
            "idiom stands for, are not in the view"
        )
    return graph


def _mark_dynamic(carrier: OnnxCarrier, lowering: Lowering) -> None:
    """Slices of a fixed axis whose bounds follow a dynamic size (``positions[:length]``).

    The pass runs again at other sizes; where a slice of an axis of the same size takes another part
    there, its bounds are only known at run time, and cutting the axis at the traced one would be
    unsound for every other.
    """
    computed = [
        n
        for n in lowering.ops_of
        if n.op_type == "Slice" and any(v is not None and v.producer() for v in n.inputs[1:3])
    ]
    if not carrier.dynamic() or not computed:
        return
    symbols = {name: lowering.hints[name] for name in carrier.dynamic() if name.isidentifier()}
    other = Lowering(carrier, {name: n + 6 for name, n in symbols.items()}).run()
    for node in computed:
        for op, again in zip(lowering.ops_of[node], other.ops_of[node], strict=True):
            if op.kind != "slice":
                continue
            axis = op.attrs["axis"]
            same = op.inputs[0].shape[axis] == again.inputs[0].shape[axis]
            if same and any(op.attrs[k] != again.attrs[k] for k in ("start", "end")):
                op.attrs["dynamic"] = True
                op.slots.clear()


_SILENT = frozenset({"Constant"})
