"""Growth of an onnx_graphsurgeon graph, as pipelines for TensorRT hold models."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

import meristem
from meristem.integrations.growth import Growth, Sizes


def grow_surgeon_graph(
    graph: gs.Graph,
    sizes_or_plan: Sizes | meristem.Plan,
    *,
    verify: bool = False,
    **options: Any,
) -> gs.Graph:
    """A larger graph that computes the same function; other arguments as of ``meristem.grow``.

    The given graph stays as it is; the result has its name, opset, inputs and outputs, and can be changed
    on and exported with ``gs.export_onnx``.

    Raises what ``meristem.grow`` raises, OutputError where the result is larger than a ModelProto can be
    (2 GB), and NotPreserved where ``verify`` finds a difference.
    """
    if not isinstance(graph, gs.Graph):
        raise meristem.CarrierError(
            f"grow_surgeon_graph takes an onnx_graphsurgeon.Graph, not {type(graph).__name__}; "
            "gs.import_onnx makes one of a ModelProto"
        )
    grown = Growth(sizes_or_plan, verify, options).carried_out(meristem.load(graph))
    return gs.import_onnx(grown.onnx_proto)


__all__ = ["grow_surgeon_graph"]
