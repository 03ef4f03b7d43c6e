"""The table of operator semantics: one entry for every kind of the vocabulary.

An entry states five facets. ``shape`` gives result shapes from operand shapes and attributes,
``evaluate`` computes with numpy (the oracle for row tests and for float64 on ONNX), ``axes`` equates
axis terms, ``transfer`` says what the operator does to fresh coordinates (content, obligations, sign,
scale), ``sizes`` lists which of its attributes are sizes and what they become. ``vanishes`` says from
which operands a zero result follows. There is no default:
a kind without an entry cannot be built, and a native operator without a kind becomes ``opaque``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from meristem.rewrite.graph import Array, Op, Shape, Value

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations
    from meristem.rewrite.flow import Flow
    from meristem.rewrite.sizes import SizeEdit, Sizes


class Semantics(Protocol):
    """What every operator of the vocabulary must state."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]: ...

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str: ...

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]: ...

    def axes(self, op: Op, eq: Equations) -> None: ...

    def transfer(self, op: Op, flow: Flow) -> None: ...

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]: ...

    def vanishes(self, op: Op) -> Vanishing: ...

    def poles(self, op: Op) -> tuple[int, ...]: ...

    def stalls(self, op: Op) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Vanishing:
    """When a result is zero everywhere: ``any`` or all of the ``operands`` are; no operands: no claim."""

    operands: tuple[int, ...] = ()
    any: bool = False


class Base:
    """Shared helpers of entries: the result has the first operand's dtype, no attribute is a size,
    nothing is claimed about zeros."""

    def dtype(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> str:
        return str(attrs.get("dtype") or inputs[0].dtype)

    def sizes(self, op: Op, sizes: Sizes) -> list[SizeEdit]:
        return []

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing()

    def poles(self, op: Op) -> tuple[int, ...]:
        """Operands that must not become zero: the result, or its gradient, would be no number."""
        return ()

    def stalls(self, op: Op) -> tuple[int, ...]:
        """Operands whose zero gives zero with a gradient of zero, so that nothing before them learns."""
        return ()


_REGISTRY: dict[str, Semantics] = {}


def register(kind: str, entry: Semantics) -> None:
    """Add the semantics of ``kind``; a second registration is an error."""
    if kind in _REGISTRY:
        raise ValueError(f"the operator {kind!r} has semantics already")
    _REGISTRY[kind] = entry


def semantics(kind: str) -> Semantics:
    """The entry of a kind; KeyError names what is missing."""
    try:
        return _REGISTRY[kind]
    except KeyError:
        raise KeyError(f"no semantics for {kind!r}: add a block in rewrite/semantics/") from None


def kinds() -> tuple[str, ...]:
    """Every kind of the vocabulary."""
    return tuple(_REGISTRY)
