"""Leaves of the view: what is a weight, what a literal, and what part a weight plays."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.carriers.onnx_carrier import OnnxCarrier, Storage
from meristem.carriers.onnx_places import folded_from, kind_of, stored_names
from meristem.carriers.onnx_values import SMALL_BYTES, dtype_name, is_float, read, stored
from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Value, Weight

_TABLE_OPS = frozenset({"cos", "sin"})
# Scores below this are hidden: exporters write the type's minimum or a large negative number.
_HIDDEN = -1e4


class Leaves:
    """Weights by initialiser and use, made at their first use."""

    def __init__(self, carrier: OnnxCarrier, builder: Any) -> None:
        self.carrier, self.b = carrier, builder
        self.weights: dict[tuple[str, ir.Node | None, int], Weight] = {}
        self._count: dict[str, int] = {}
        self._twins: dict[str, list[tuple[str, bool]]] = {}
        for name, (primary, transposed) in carrier.ties.items():
            self._twins.setdefault(primary, []).append((name, transposed))

    def operand(self, value: ir.Value, node: ir.Node, index: int) -> Value | None:
        """The operand for a stored tensor at one input; None for computed values."""
        tensor = stored(value)
        if tensor is None:
            return None
        name = str(value.name)
        if name in self.carrier.ties:
            primary, transposed = self.carrier.ties[name]
            w = self._weight(self.carrier.graph.initializers[primary], None, 0)
            return self.b.permute(w, (1, 0)) if transposed else w
        if is_literal(value, tensor):
            return self.b.literal(read(tensor), dtype_name(tensor.dtype))  # type: ignore[no-any-return]
        many = len(value.uses()) > 1 and name not in self.carrier.shared and name not in self._twins
        return self._weight(value, node if many else None, index if many else 0)

    def _weight(self, value: ir.Value, node: ir.Node | None, index: int) -> Weight:
        key = (str(value.name), node, index)
        known = self.weights.get(key)
        if known is not None:
            return known
        tensor = stored(value)
        self._count[key[0]] = count = self._count.get(key[0], 0) + 1
        twins = tuple(self._twins.get(key[0], ()))
        out = Weight(
            key[0] if count == 1 else f"{key[0]}#{count}",
            tuple(int(n) for n in tensor.shape),
            dtype_name(tensor.dtype),
            read=partial(read, tensor),
            role=role_of(value, tensor),
            aliases=tuple(n for n, _ in twins),
            native=Storage(key[0], None if node is None else (node, index), twins),
        )
        self.weights[key] = out
        self.b.graph.weights.append(out)
        return out


def is_literal(value: ir.Value, tensor: Any) -> bool:
    """Program text: small integers and booleans, single numbers that no module owns, strings."""
    if tensor.dtype == ir.DataType.STRING:
        return True
    if not is_float(tensor.dtype):
        return bool(tensor.nbytes <= SMALL_BYTES)
    kind = kind_of(value)
    owned = kind == "PARAMETER" or (not kind and "." in str(value.name) and len(tensor.shape) > 0)
    return bool(tensor.size <= 1 and not owned)


def role_of(value: ir.Value, tensor: Any) -> str:
    """parameter, buffer or constant: by torch's own record, else by what the numbers look like.

    A folded tensor that no stored one went into is a constant (a mask); one that a cosine or sine
    made is a table of angles.
    """
    kind = kind_of(value)
    if kind:
        return {"PARAMETER": "parameter", "BUFFER": "buffer"}.get(kind, "constant")
    if not is_float(tensor.dtype):
        return "constant"
    sources = folded_from(value)
    if sources:
        operators = {s.rstrip("0123456789").rstrip("_") for s in sources}
        return "parameter" if stored_names(value) and not operators & _TABLE_OPS else "constant"
    if len(tensor.shape) >= 2 and tensor.nbytes <= SMALL_BYTES and _looks_like_mask(read(tensor)):
        return "constant"
    return "parameter"


def _looks_like_mask(data: Any) -> bool:
    """Zeros and hidden scores only, both present."""
    numbers = np.asarray(data, np.float64)
    hidden = numbers <= _HIDDEN
    return bool(np.any(hidden) and np.all(hidden | (numbers == 0)))


def unused(carrier: OnnxCarrier, builder: Builder) -> list[Weight]:
    """Float initialisers that nothing reads: they travel along unchanged."""
    known = {w.native.name for w in builder.graph.weights} | set(carrier.ties)
    out = []
    for name, value in carrier.graph.initializers.items():
        tensor = value.const_value
        if name not in known and tensor is not None and is_float(tensor.dtype) and not value.uses():
            out.append(
                Weight(
                    name,
                    tuple(int(n) for n in tensor.shape),
                    dtype_name(tensor.dtype),
                    read=partial(read, tensor),
                    role=role_of(value, tensor),
                    native=Storage(name),
                )
            )
    return out
