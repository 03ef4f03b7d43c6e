"""What must be known of an ONNX model before its axes are solved.

Only local functions (they are inlined) and the order of the nodes are changed in the model. Everything
else that exporters did to the weights is recorded as a fact beside it, and undone in the view alone, so
that a model that does not grow is written back as it was: constants shared by several uses count once for
each use, and a table that is stored twice, plain and transposed, is one weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from meristem.carriers.onnx_carrier import OnnxCarrier
from meristem.carriers.onnx_values import is_constant_valued, is_float, stored
from meristem.rewrite.errors import CarrierError

# Rows compared at a time when two large tables are compared.
_ROWS = 4096


def normalise(carrier: OnnxCarrier) -> OnnxCarrier:
    """Inline functions, then find what is shared and what is tied; each step is reported."""
    _inline(carrier)
    _sort(carrier)
    shared, separated = _sharing(carrier.model)
    carrier.shared = frozenset(shared)
    if separated:
        names = ", ".join(sorted(separated)[:3]) + (", ..." if len(separated) > 3 else "")
        carrier.note(
            f"{len(separated)} small or constant tensors serve several operators and count as one "
            f"weight for each use ({names})"
        )
    carrier.ties = _ties(carrier.model)
    for name, (primary, transposed) in carrier.ties.items():
        how = " transposed" if transposed else ""
        carrier.note(f"{name} repeats {primary}{how} and is tied to it")
    return carrier


def _inline(carrier: OnnxCarrier) -> None:
    count = len(carrier.model.functions)
    if count:
        called = sum(
            node.op_identifier() in carrier.model.functions for node in carrier.graph.all_nodes()
        )
        InlinePass()(carrier.model)
        carrier.note(f"{count} local functions inlined ({called} calls)")


def _sort(carrier: OnnxCarrier) -> None:
    """Nodes after what they read: runtimes take them in any order. Raises CarrierError for a cycle."""
    before = list(carrier.graph)
    try:
        carrier.graph.sort()
    except ValueError as error:
        raise CarrierError(f"the nodes of the graph form a cycle: {error}") from error
    if before != list(carrier.graph):
        carrier.note("the nodes are put into an order in which each follows what it reads")


def _sharing(model: ir.Model) -> tuple[set[str], set[str]]:
    """Float tensors with several uses: those that are one weight, and those that are not.

    Exporters merge equal tensors. A matrix with differing entries cannot have become equal to
    another by chance; a vector of ones or zeros, and any folded constant, can.
    """
    shared, separated = set(), set()
    for value in _stored_values(model):
        if len(value.uses()) < 2:
            continue
        tensor = stored(value)
        if not is_float(tensor.dtype) or tensor.size <= 1:
            continue
        if len(tensor.shape) >= 2 and not is_constant_valued(tensor):
            shared.add(str(value.name))
        else:
            separated.add(str(value.name))
        _release(tensor)
    return shared, separated


def _stored_values(model: ir.Model) -> Iterator[ir.Value]:
    yield from (v for v in model.graph.initializers.values() if v.const_value is not None)
    for node in model.graph:
        if node.op_type == "Constant" and stored(node.outputs[0]) is not None:
            yield node.outputs[0]


def _ties(model: ir.Model) -> dict[str, tuple[str, bool]]:
    """Initialisers that repeat an embedding table, plain or transposed -> (table, transposed).

    Exporters fold the transposition of a small tied table, which stores it twice. Only tables that
    are read by index can be tied to an output projection, so only those are compared, and only with
    tensors of the same size.
    """
    out: dict[str, tuple[str, bool]] = {}
    matrices = {
        str(n): v
        for n, v in model.graph.initializers.items()
        if v.const_value is not None
        and is_float(v.dtype)
        and len(v.const_value.shape) == 2
        and v.uses()
    }
    for table, value in matrices.items():
        if not _is_table(value) or table in out:
            continue
        for other, twin in matrices.items():
            if other == table or other in out or _is_table(twin):
                continue
            transposed = _repeats(value.const_value, twin.const_value)
            if transposed is not None:
                out[other] = (table, transposed)
    return out


def _is_table(value: ir.Value) -> bool:
    return any(node.op_type == "Gather" and i == 0 and _axis(node) == 0 for node, i in value.uses())


def _axis(node: ir.Node) -> int:
    found = node.attributes.get("axis")
    return 0 if found is None else int(found.value)


def _repeats(table: Any, other: Any) -> bool | None:
    """False where ``other`` is the table, True where it is its transpose, None where neither."""
    if table.dtype != other.dtype or table.size != other.size or table.size < 2:
        return None
    try:
        a, b = table.numpy(), other.numpy()
        for transposed, twin in ((False, b), (True, b.T)):
            if a.shape == twin.shape and _equal(a, twin):
                return None if is_constant_valued(table) else transposed
        return None
    finally:
        a = b = twin = None
        _release(table)
        _release(other)


def _equal(a: Any, b: Any) -> bool:
    """Block by block, so that differing tables are told apart by their first rows."""
    return all(np.array_equal(a[i : i + _ROWS], b[i : i + _ROWS]) for i in range(0, len(a), _ROWS))


def _release(tensor: Any) -> None:
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
