"""Residual streams made by hand, without any carrier."""

from __future__ import annotations

import itertools

import numpy as np

import meristem.rewrite.semantics  # noqa: F401  (fills the registry)
from meristem.rewrite.builder import Builder
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Input, Value, Weight
from meristem.rewrite.residual import Streams
from meristem.rewrite.stacks import Stack, find_stacks

WIDTH, TOKENS, BATCH = 6, 5, 3


class Stream:
    """A builder with inputs, named weights, and the parts that blocks are made of.

    Every call is a native node of its own, in the module ``place``.
    """

    def __init__(self) -> None:
        self.b = Builder()
        self.graph: Graph = self.b.graph
        self.place = ""
        self._natives = itertools.count()

    def at(self, place: str) -> Stream:
        self.place = place
        return self

    def _node(self) -> None:
        self.b.at(f"node{next(self._natives)}", self.place, "made by hand")

    def input(self, name: str = "x", shape: tuple[int, ...] = (BATCH, TOKENS, WIDTH)) -> Value:
        v = Input(name, shape, "float32")
        self.graph.inputs.append(v)
        return v

    def weight(self, leaf: str, *shape: int, role: str = "parameter") -> Weight:
        data = np.ones(shape)
        name = f"{self.place}.{leaf}" if self.place else leaf
        w = Weight(name, shape, "float32", read=lambda: data, role=role, native=name)
        self.graph.weights.append(w)
        return w

    def op(self, kind: str, *inputs: Value, **attrs: object) -> Value:
        self._node()
        return self.b.apply(kind, *inputs, **attrs)

    def literal(self, number: float) -> Value:
        self._node()
        return self.b.literal(number, "float32", ("args", 1))

    def linear(self, x: Value, leaf: str, width: int = WIDTH, bias: bool = True) -> Value:
        w = self.weight(f"{leaf}.weight", width, x.shape[-1])
        c = self.weight(f"{leaf}.bias", width) if bias else None
        self._node()
        return self.b.linear(x, w, c)

    def norm(self, x: Value, leaf: str = "norm") -> Value:
        gain = self.weight(f"{leaf}.weight", x.shape[-1])
        self._node()
        return self.b.apply("mul", self.b.norm(x, [-1], 1e-5, True, ("args", 4)), gain)

    def attend(self, x: Value, leaf: str = "attn", memory: Value | None = None) -> Value:
        """One head; with ``memory`` keys and values come from another stream."""
        source = x if memory is None else memory
        q = self.linear(x, f"{leaf}.q")
        k, v = self.linear(source, f"{leaf}.k"), self.linear(source, f"{leaf}.v")
        self._node()
        mixed = self.b.attention(q, k, v)
        return self.linear(mixed, f"{leaf}.o")

    def mlp(self, x: Value, leaf: str = "mlp", width: int = 8) -> Value:
        return self.linear(self.op("gelu", self.linear(x, f"{leaf}.up", width)), f"{leaf}.down")

    def block(self, x: Value, place: str, *, post: bool = False) -> Value:
        """Attention and MLP with the norm before the branch, or behind the sum."""
        self.at(place)
        if post:
            x = self.norm(self.op("add", x, self.attend(x)), "norm1")
            return self.norm(self.op("add", x, self.mlp(x)), "norm2")
        x = self.op("add", x, self.attend(self.norm(x, "norm1")))
        return self.op("add", x, self.mlp(self.norm(x, "norm2")))

    def end(self, *values: Value) -> Stream:
        self.graph.outputs += [(f"out{i}", v) for i, v in enumerate(values)]
        return self

    # -- results -------------------------------------------------------------------------------

    def equations(self) -> Equations:
        return Equations(self.graph).solve()

    def streams(self) -> Streams:
        return Streams(self.graph, self.equations())

    def stacks(self) -> list[Stack]:
        return find_stacks(self.graph, self.equations())


def deep(layers: int, *, post: bool = False, prefix: str = "layers") -> tuple[Stream, Value]:
    """A whole model; its last value comes along."""
    s = Stream()
    x = s.at("embed").linear(s.input(), "table")
    for i in range(layers):
        x = s.block(x, f"{prefix}.{i}", post=post)
    y = s.at("head").linear(x if post else s.norm(x), "out", 9)
    return s.end(y), y
