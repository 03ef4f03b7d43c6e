"""The lowering table of ONNX: operator type -> calls of the builder.

One small function for each operator type, registered by name. It receives one ``Call`` and returns
a Value, or a list of them. What has no row, or declines by raising ``Declined``, becomes a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.carriers.onnx_builder import FoldingBuilder
from meristem.carriers.onnx_values import dtype_name
from meristem.rewrite.graph import Array, Literal, Value, Weight

# Stored float vectors up to this size may be parameters of an operator (the scales of a resize).
PARAMETERS = 16
Result = Value | list[Any]
Lowering = Callable[["Call"], Any]
TABLE: dict[tuple[str, str], Lowering] = {}


class Declined(Exception):
    """A lowering cannot express this use of its operator."""


def onnx(*names: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Register a lowering for operator types of one domain."""

    def add(f: Lowering) -> Lowering:
        for name in names:
            if (domain, name) in TABLE:
                raise ValueError(f"{name} has a lowering already")
            TABLE[domain, name] = f
        return f

    return add


class Call:
    """One node: operands looked up, attributes with defaults, roles for what can be edited."""

    def __init__(
        self, b: FoldingBuilder, node: ir.Node, version: int, operands: Sequence[Any]
    ) -> None:
        self.b, self.node, self.version = b, node, version
        self._operands = operands

    def __len__(self) -> int:
        return len(self._operands)

    def has(self, i: int) -> bool:
        """Is the i-th input given?"""
        return i < len(self._operands) and self._operands[i] is not None

    def wants(self, i: int) -> bool:
        """Is the i-th output used by anyone?"""
        if i >= len(self.node.outputs):
            return False
        out = self.node.outputs[i]
        return bool(out.name) and (bool(out.uses()) or out.is_graph_output())

    def x(self, i: int) -> Value:
        """The i-th operand; a constant is rewritable at this input."""
        if not self.has(i):
            raise Declined(f"input {i} is missing")
        v = self._operands[i]
        if isinstance(v, list):
            raise Declined("an operand is a sequence")
        if isinstance(v, Literal):
            return self.b.fresh(v, ("input", i))
        assert isinstance(v, Value)
        return v

    def maybe(self, i: int) -> Value | None:
        return self.x(i) if self.has(i) else None

    def sequence(self, i: int) -> list[Value]:
        v = self._operands[i]
        if not isinstance(v, list):
            raise Declined("an operand is not a sequence")
        return v

    def const(self, i: int) -> Array:
        """The values of an operand that must be known."""
        v = self._operands[i] if self.has(i) else None
        if isinstance(v, Weight) and prod(v.shape) <= PARAMETERS:
            return v.array()  # scales and the like: numbers that no growth reaches
        if not isinstance(v, Literal):
            raise Declined(f"input {i} depends on data")
        return v.data

    def is_moving(self, i: int) -> bool:
        """Does the constant depend on the size of a dynamic axis?"""
        return self.has(i) and self._operands[i] in self.b.moving

    def moves(self, i: int, entry: int) -> bool:
        """Does one entry of a constant depend on the size of a dynamic axis?"""
        mask = self.b.moving.get(self._operands[i]) if self.has(i) else None
        return mask is not None and bool(np.ravel(mask)[entry])

    def ints(self, i: int) -> list[int]:
        return [int(n) for n in np.ravel(self.const(i))]

    def attr(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None or found.value is None else found.value

    def ints_of(self, i: int, name: str) -> list[int] | None:
        """A list that older opsets hold in an attribute and newer ones in an input."""
        if self.has(i):
            return self.ints(i)
        found = self.attr(name)
        return None if found is None else [int(n) for n in found]

    def type_of(self, i: int = 0) -> str:
        """The recorded type of an output."""
        return dtype_name(self.node.outputs[i].dtype)


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from the front."""
    return [a % rank for a in axes] if rank else []


def lowering(node: ir.Node) -> Lowering | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return TABLE.get((domain, node.op_type))


def supported() -> Mapping[tuple[str, str], Lowering]:
    """Every (domain, operator type) with a lowering."""
    return TABLE
