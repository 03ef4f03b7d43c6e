"""The view over a carrier: operators of a small closed vocabulary, values, weights by name.

The graph is read-only for everyone but the frontend that builds it. Names, metadata and unknown
attributes stay with the carrier; every operator and literal keeps a handle to its native node, and
edits are addressed as (native node, slot).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a literal or a size lives in the carrier: a native node and a role on it.

    ``role`` is the carrier's own address (an argument position, an input index, an attribute);
    the rewriting core only passes it back.
    """

    native: Any
    role: Any


@dataclass(eq=False, slots=True)
class Value:
    """A tensor in the graph. ``shape`` holds the traced sizes of dynamic axes."""

    name: str
    shape: Shape
    dtype: str
    producer: Op | None = None
    index: int = 0
    uses: list[tuple[Op, int]] = field(default_factory=list)

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    def __repr__(self) -> str:
        return f"%{self.name}:{self.dtype}{list(self.shape)}"


@dataclass(eq=False, slots=True, repr=False)
class Input(Value):
    """A tensor that the caller gives; ``dynamic`` names the axes whose size may vary."""

    dynamic: dict[int, str] = field(default_factory=dict)


@dataclass(eq=False, slots=True, repr=False)
class Weight(Value):
    """A stored tensor: parameter, buffer or constant. Tied names are one Weight (``aliases``)."""

    read: Callable[[], Array] | None = None
    role: str = "parameter"  # parameter | buffer | constant
    aliases: tuple[str, ...] = ()
    native: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def array(self) -> Array:
        """The stored values; reads from disk for memory-mapped carriers."""
        if self.read is None:
            raise ValueError(f"weight {self.name} has no storage")
        return self.read()


@dataclass(eq=False, slots=True, repr=False)
class Literal(Value):
    """A constant of the program text: a scalar operand, an index table, a small folded tensor.

    ``slot`` is where it can be rewritten; None where the carrier cannot express a change.
    """

    data: Array = field(default_factory=lambda: np.zeros(()))
    slot: Slot | None = None
    implicit: bool = (
        False  # an attention scale equal to 1/sqrt(its own size), the operator's default
    )


@dataclass(eq=False, slots=True)
class Op:
    """One operator: ``kind`` of the closed vocabulary, operands, attributes and results.

    ``slots`` says where the sizes among the attributes live in the carrier (``{"shape": Slot}``);
    ``place`` is the module path; ``origin`` the native operator's name, for messages.
    """

    kind: str
    inputs: tuple[Value, ...]
    attrs: dict[str, Any]
    outputs: list[Value] = field(default_factory=list)
    native: Any = None
    place: str = ""
    origin: str = ""
    slots: dict[str, Slot] = field(default_factory=dict)

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def where(self) -> str:
        """Operator and place as a person reads them."""
        return f"{self.origin or self.kind}" + (f" in {self.place}" if self.place else "")

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        return f"{outs} = {self.kind}({', '.join(map(repr, self.inputs))}) {self.attrs}"


@dataclass(eq=False, slots=True, repr=False)
class Graph:
    """Operators in topological order between inputs and outputs."""

    inputs: list[Input] = field(default_factory=list)
    outputs: list[tuple[str, Value]] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    unused: list[Weight] = field(default_factory=list)
    bounds: list[tuple[Literal, int]] = field(default_factory=list)
    """Constants, and axes, of which folded operators read a part as long as a dynamic axis."""
    written: dict[str, str] = field(default_factory=dict)
    """Outputs that are no results but new values of what the program stores (or is given)."""

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        yield from self.weights
        yield from self.literals
        for op in self.ops:
            yield from op.outputs

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What notebooks and hypothesis print; field by field a graph is exponentially long."""
        printer.text(str(self))

    def __str__(self) -> str:
        head = [f"input {v!r}" for v in self.inputs]
        tail = [f"output {name} = {v!r}" for name, v in self.outputs]
        return "\n".join([*head, *map(repr, self.ops), *tail])
