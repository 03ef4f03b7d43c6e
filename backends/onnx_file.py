"""From an edit script to a new ONNX carrier, and from a carrier to a file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from meristem.backends.onnx_edits import Editor
from meristem.backends.onnx_nodes import boundary, masked, statistics
from meristem.backends.onnx_sizes import Resizer
from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_lower import Lowering
from meristem.carriers.onnx_values import dtype_of, is_float, read, size_of
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Array, Value, Weight
from meristem.rewrite.masks import NAME

# A protobuf message ends at 2 GiB; names and nodes need some of it.
PROTO_LIMIT = 2**31 - 2**26
# Tensors above this go to the external file, where there is one.
EXTERNAL_BYTES = 1024


def apply_script(
    carrier: OnnxCarrier, script: EditScript, hints: Mapping[str, int] | None = None
) -> OnnxCarrier:
    """Apply a script to a copy of the carrier; its weights are computed when they are read or
    saved.

    ``hints`` are those that the view was built with.
    """
    before = Lowering(carrier, hints).run()
    editor = Editor(carrier)
    separate: dict[str, list[Weight]] = {}
    for w in before.leaves.weights.values():
        if w.native.use is not None:
            separate.setdefault(w.native.name, []).append(w)
    editor.weights(script.weights, separate)
    for literal in script.literals:
        editor.literal(literal)
    mask = None
    if script.mask is not None and (script.masks or script.statistics):
        mask = editor.constant(np.full((), script.mask), "float32", NAME)
    for s in script.statistics:
        statistics(editor, s, mask)
    for m in script.masks:
        masked(editor, m, mask)
    for b in script.boundary:
        boundary(editor, b)
    for b in script.interface:
        if not b.output:
            _resize_input(editor, b.name, b.axis, b.size)
    grown = replace(
        carrier, model=editor.model, path=None, ties=dict(carrier.ties), normalisations=[]
    )
    rewritten = {(e.slot.native, e.slot.role) for e in script.literals}
    after = Resizer(editor, grown, before, script.sizes, rewritten).run()
    editor.remove_unused()
    _record_shapes(editor, before, after)
    _complete_outputs(editor, after)
    return grown


def _resize_input(editor: Editor, name: str, axis: int, size: int) -> None:
    value = next((v for v in editor.graph.inputs if v.name == name), None)
    if value is not None and value.shape is not None and isinstance(value.shape[axis], int):
        dims = list(value.shape)
        dims[axis] = size
        value.shape = ir.Shape(dims)


def _record_shapes(editor: Editor, before: Lowering, after: Lowering) -> None:
    """State every recorded size anew; expressions that are wrong now are left out."""
    hints = after.hints
    then = {
        new: before.values.get(old)
        for source, copy in editor.pairs().items()
        for old, new in zip(source.outputs, copy.outputs, strict=True)
    }
    for node in editor.graph.all_nodes():
        for v in node.outputs:
            value = after.values.get(v)
            if isinstance(value, list):
                v.shape = None  # a sequence records what its elements share
            if v.shape is None or not isinstance(value, Value):
                continue
            if len(v.shape) != len(value.shape):
                v.shape = None
                continue
            was = then.get(v)
            old = was.shape if isinstance(was, Value) else (None,) * len(value.shape)
            v.shape = ir.Shape(
                [
                    d if m == n else _size(d, n, hints)
                    for d, n, m in zip(v.shape, value.shape, old, strict=True)
                ]
            )


def _size(recorded: Any, now: int, hints: Mapping[str, int]) -> Any:
    if isinstance(recorded, int):
        return now
    return recorded if size_of(recorded, hints) == now else None


def _complete_outputs(editor: Editor, after: Lowering) -> None:
    """Outputs must state a type, and their sizes where nothing is dynamic."""
    static = not any(v.dynamic for v in after.graph.inputs)
    for v in editor.graph.outputs:
        value = after.values.get(v)
        if isinstance(value, Value):
            if v.type is None:
                v.type = ir.TensorType(dtype_of(value.dtype))
            if v.shape is None and static:
                v.shape = ir.Shape(value.shape)


# -- files -------------------------------------------------------------------------------------


def state_dict(carrier: OnnxCarrier) -> dict[str, Array]:
    """Every float initialiser by its name, as numpy arrays."""
    return {
        str(name): read(v.const_value)
        for name, v in carrier.graph.initializers.items()
        if v.const_value is not None and is_float(v.const_value.dtype)
    }


def save(carrier: OnnxCarrier, path: str | os.PathLike[str], *, check: bool = True) -> Path:
    """Write the model; large weights stream one by one into a file beside it.

    Everything is written and checked in a temporary folder first, so a failure leaves nothing
    behind.
    """
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise OutputError(
            f"cannot write {target}: give a file name in an existing folder", path=str(target)
        )
    size = _size_of_weights(carrier)
    external = carrier.external or size > PROTO_LIMIT
    data = target.with_name(target.name + ".data")
    _refuse_own_data(carrier, target, data if external else None)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error}", path=str(target)) from error
    try:
        written = folder / target.name
        _write(carrier, written, data.name if external else None)
        if check and _checkable(carrier):
            onnx.checker.check_model(os.fspath(written), full_check=True)
        if external and _bytes(folder / data.name):
            os.replace(folder / data.name, data)
        os.replace(written, target)
    except (
        OSError,
        ValueError,
        RuntimeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise OutputError(
            f"{target} was not written ({type(error).__name__}: {error})", path=str(target)
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _write(carrier: OnnxCarrier, path: Path, data: str | None) -> None:
    """One tensor at a time goes to ``data``; the carrier's own tensors are put back afterwards."""
    model = carrier.model
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    tensors = [v.const_value for v in values]
    try:
        if data is not None:
            model = ir.external_data.unload_from_model(
                model, path.parent, data, size_threshold_bytes=EXTERNAL_BYTES
            )
        path.write_bytes(_serialised(model, carrier).SerializeToString())
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor


def model_proto(carrier: OnnxCarrier) -> onnx.ModelProto:
    """The model with every weight inside; external data are read.

    Raises OutputError where that is more than a message of protobuf can hold.
    """
    refuse_large(_size_of_weights(carrier))
    return _serialised(ir.external_data.load_to_model(carrier.model.clone()), carrier)


def refuse_large(size: int) -> None:
    """Raises OutputError where weights of so many bytes do not fit into a ModelProto."""
    if size > PROTO_LIMIT:
        raise OutputError(
            f"the weights take {size:,} bytes, and a ModelProto holds {PROTO_LIMIT:,}; save the grown "
            "model to a file, which puts them beside it",
            size=size,
        )


def _serialised(model: ir.Model, carrier: OnnxCarrier) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    if carrier.listed is not None:
        _unlist(proto.graph, carrier.listed)
    return proto


def _size_of_weights(carrier: OnnxCarrier) -> int:
    """Bytes of the stored tensors."""
    graphs = carrier.model.graphs()
    tensors = (v.const_value for g in graphs for v in g.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None)


def _checkable(carrier: OnnxCarrier) -> bool:
    """ONNX Runtime writes operators of its own into ONNX's domain; the checker knows none of them."""
    return all(
        n.domain not in ("", "ai.onnx") or onnx.defs.has(n.op_type)
        for n in carrier.graph.all_nodes()
    )


def _unlist(graph: onnx.GraphProto, listed: frozenset[str]) -> None:
    """The value_info lists the initialisers that it listed before, no others."""
    extra = {w.name for w in graph.initializer} - listed
    kept = [v for v in graph.value_info if v.name not in extra or v.metadata_props]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refuse_own_data(carrier: OnnxCarrier, target: Path, data: Path | None) -> None:
    """Weights are read while the file is written, so a file cannot replace what it is read from."""
    for name in (target, data):
        if name is not None and name.resolve() in carrier.reads:
            raise OutputError(
                f"{name} is where the weights are read from; save under another name",
                path=str(name),
            )


__all__ = ["PROTO_LIMIT", "apply_script", "model_proto", "refuse_large", "save", "state_dict"]
