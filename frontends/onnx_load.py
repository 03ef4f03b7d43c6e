"""Loading ONNX models in any form that users hold, without reading their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.frontends.onnx_normalise import normalise
from meristem.rewrite.errors import CarrierError


def load_onnx(source: Any) -> OnnxCarrier:
    """A path, ``onnx.ModelProto``, ``onnx_ir.Model``, ONNX program of torch, or graphsurgeon graph.

    The given object is never changed. External data stay in their file and are memory-mapped; those of a
    ModelProto are looked for in the current folder, for it does not say where it was read.
    """
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source))
    if isinstance(source, onnx.ModelProto):
        return _carrier(_deserialised(source), None, _listed(source))
    if isinstance(source, ir.Model):
        return _carrier(source.clone(), None)
    if type(source).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon as gs

        proto = gs.export_onnx(source)
        return _carrier(_deserialised(proto), None, _listed(proto))
    if isinstance(getattr(source, "model", None), ir.Model):
        return _carrier(source.model.clone(), None)  # torch.onnx.ONNXProgram
    raise CarrierError(
        f"cannot load {type(source).__name__}; give a path, a torch ExportedProgram, onnx.ModelProto, "
        "onnx_ir.Model, torch.onnx.ONNXProgram or onnx_graphsurgeon.Graph; meristem.trace takes modules",
        source=type(source).__name__,
    )


def _from_path(path: Path) -> OnnxCarrier:
    if not path.is_file():
        raise CarrierError(f"there is no file {path}", path=str(path))
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except Exception as error:  # protobuf's own errors have no public home in onnx
        raise CarrierError(
            f"{path} is not a readable ONNX file ({type(error).__name__}: {error}); it may be "
            "truncated, so copy or export it again",
            path=str(path),
        ) from error
    if not model.graph.outputs:
        raise CarrierError(
            f"{path} holds no graph with outputs; it may be truncated, so copy or export it again",
            path=str(path),
        )
    return _carrier(model, path, _listed(proto))


def _deserialised(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except (ValueError, KeyError) as error:
        raise CarrierError(f"the model cannot be read: {error}") from error


def _listed(proto: onnx.ModelProto) -> frozenset[str]:
    """Initialisers that the graph's value_info lists."""
    weights = {w.name for w in proto.graph.initializer}
    return frozenset(v.name for v in proto.graph.value_info if v.name in weights)


def _carrier(
    model: ir.Model, path: Path | None, listed: frozenset[str] | None = None
) -> OnnxCarrier:
    reads = {
        check_external(name, tensor, path)
        for name, tensor in tensors(model)
        if isinstance(tensor, ir.ExternalTensor)
    }
    if reads and path is not None:
        reads.add(path.resolve())
    carrier = OnnxCarrier(model, path, external=bool(reads), reads=frozenset(reads), listed=listed)
    return normalise(carrier)


def tensors(model: ir.Model) -> Iterator[tuple[str, Any]]:
    """Every stored tensor of every graph and function: initialisers and tensor attributes."""
    graphs = [*model.graphs(), *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for name, value in graph.initializers.items():
            yield str(name), value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR:
                    yield str(node.name), attribute.value


def check_external(name: str, tensor: ir.ExternalTensor, path: Path | None) -> Path:
    """The file of external data: in the model's folder, existing, and long enough."""
    folder = Path(tensor.base_dir or (path.parent if path else ".")).resolve()
    location = os.fspath(tensor.location)
    target = (folder / location).resolve()
    if os.path.isabs(location) or not target.is_relative_to(folder):
        raise CarrierError(
            f"the weight {name} points to {location}, outside of the model's folder {folder}; such "
            "a file could read anything on this machine, so move the data beside the model",
            weight=name,
            location=location,
        )
    if not target.is_file():
        raise CarrierError(
            f"the weight {name} is stored in {target}, which does not exist; put the external data "
            "beside the model, or save the model in one file"
            + (
                ""
                if path
                else "; of a ModelProto read them first (onnx.load_external_data_for_model)"
            ),
            weight=name,
            location=str(target),
        )
    end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if target.stat().st_size < end:
        raise CarrierError(
            f"{target} ends before the weight {name} does ({target.stat().st_size} of {end} "
            "bytes); it is truncated, so copy or export it again",
            weight=name,
            location=str(target),
        )
    return Path(target)
