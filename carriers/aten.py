"""The lowering table of ATen: native operator -> operators of the vocabulary.

One function for each family, registered by operator names; it receives the builder and the native
arguments by name (tensors as Values, numbers as hints) and returns a Value or a list of them. What has
no row here becomes a barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from meristem.carriers.aten_values import dtype_name, number, shape_of
from meristem.rewrite.builder import Builder
from meristem.rewrite.graph import Value

Lowering = Callable[..., Any]
TABLE: dict[str, Lowering] = {}


def aten(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ``aten.<name>`` (with overload)."""

    def add(f: Lowering) -> Lowering:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            if full in TABLE:
                raise ValueError(f"{full} has a lowering already")
            TABLE[full] = f
        return f

    return add


class Call:
    """One native call: arguments by schema name, values looked up, roles for what can be edited."""

    def __init__(self, b: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        self.b, self.node, self.values = b, node, values
        schema = node.target._schema  # type: ignore[union-attr]
        self.position = {a.name: i for i, a in enumerate(schema.arguments)}
        self.args: dict[str, Any] = {}
        for i, a in enumerate(schema.arguments):
            if i < len(node.args):
                self.args[a.name] = node.args[i]
            elif a.name in node.kwargs:
                self.args[a.name] = node.kwargs[a.name]
            elif a.has_default_value():
                self.args[a.name] = a.default_value
            else:
                self.args[a.name] = None

    def role(self, name: str) -> tuple[Any, ...]:
        """Where the argument lives on the node: position, or keyword where it is keyword-only."""
        i = self.position[name]
        if name in self.node.kwargs or i >= len(self.node.args):
            return ("kwargs", name)
        return ("args", i)

    def value(self, name: str) -> Value:
        """A tensor argument."""
        v = self.values[self.args[name]]
        assert isinstance(v, Value)
        return v

    def maybe(self, name: str) -> Value | None:
        return None if self.args[name] is None else self.value(name)

    def list(self, name: str) -> list[Value]:
        return [self.values[n] for n in self.args[name]]

    def num(self, name: str) -> Any:
        """A number or list of numbers, symbolic ones by their hint."""
        return number(self.args[name])

    def pair(self, left: str, right: str) -> tuple[Value, Value]:
        """Two operands of which one may be a number."""
        a, b = (
            self.values[self.args[n]]
            if isinstance(self.args[n], fx.Node)
            and isinstance(self.values.get(self.args[n]), Value)
            else None
            for n in (left, right)
        )
        like = a if a is not None else b
        assert like is not None
        out = []
        for name, v in ((left, a), (right, b)):
            out.append(
                v if v is not None else self.b.operand(self.num(name), like, self.role(name))
            )
        return out[0], out[1]

    def wants(self, i: int) -> bool:
        """Is the i-th result used by anyone?"""
        return any(u.args[1:] == (i,) and u.users for u in self.node.users)

    def shape(self) -> tuple[int, ...]:
        """The recorded shape of the (first) result."""
        val = self.node.meta["val"]
        return shape_of(val[0] if isinstance(val, (tuple, list)) else val)

    def dtype(self) -> str:
        val = self.node.meta["val"]
        return dtype_name((val[0] if isinstance(val, (tuple, list)) else val).dtype)


def lower(b: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Lower one call; None where the table has no row or the row declines."""
    row = TABLE.get(f"{node.target._schema.name}.{overload(node)}")  # type: ignore[union-attr]
    return None if row is None else row(Call(b, node, values))


def overload(node: fx.Node) -> str:
    return str(node.target._schema.overload_name) or "default"  # type: ignore[union-attr]
