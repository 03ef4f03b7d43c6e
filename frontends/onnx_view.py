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
    graph = simplify(lowering.graph)
    live = {id(op.native) for op in graph.ops}
    cut = sum(id(n) not in live and n.op_type not in _SILENT for n in carrier.graph)
    if cut:
        carrier.note(
            f"{cut} operators that compute sizes, positions or masks from constants, or that an "
            "idiom stands for, are not in the view"
        )
    return graph


_SILENT = frozenset({"Constant"})
