"""Pooling over trailing spatial axes; every other axis passes untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.rewrite.axes import Term
from meristem.rewrite.cell import Cell
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, all_of
from meristem.rewrite.graph import Array, Op, Shape, Value
from meristem.rewrite.registry import Base, Vanishing, register
from meristem.rewrite.semantics.functions import trailing

if TYPE_CHECKING:
    from meristem.rewrite.equations import Equations


@dataclass(frozen=True)
class Pool(Base):
    """``how`` (max or mean) of windows of ``kernel`` at ``stride`` over the last axes, with ``pads``."""

    def shape(self, inputs: Sequence[Value], attrs: dict[str, Any]) -> list[Shape]:
        x = inputs[0].shape
        rank = len(attrs["kernel"])
        spatial = []
        for n, k, s, p in zip(
            x[-rank:], attrs["kernel"], attrs["stride"], attrs["pads"], strict=True
        ):
            span = n + 2 * p - k
            steps = -(-span // s) if attrs["ceil"] else span // s
            if attrs["ceil"] and steps * s >= n + p:
                steps -= 1  # a window must start inside the operand or its left padding
            spatial.append(steps + 1)
        return [(*x[:-rank], *spatial)]

    def evaluate(self, op: Op, *arrays: Array) -> list[Array]:
        x, at = arrays[0], op.attrs
        rank = len(at["kernel"])
        out = op.output.shape[-rank:]
        filler = -np.inf if at["how"] == "max" else 0.0
        need = [
            (o - 1) * s + k - n - p
            for o, s, k, n, p in zip(
                out, at["stride"], at["kernel"], x.shape[-rank:], at["pads"], strict=True
            )
        ]
        pads = [(0, 0)] * (x.ndim - rank) + [
            (p, max(m, 0)) for p, m in zip(at["pads"], need, strict=True)
        ]
        padded = np.pad(np.asarray(x, np.float64), pads, constant_values=filler)
        windows = []
        for k in product(*(range(n) for n in at["kernel"])):
            window = tuple(
                slice(i, i + (o - 1) * s + 1, s)
                for i, o, s in zip(k, out, at["stride"], strict=True)
            )
            windows.append(padded[trailing(window)])
        stack = np.stack(windows)
        if at["how"] == "max":
            return [stack.max(0)]
        inside: Array = np.ones(())
        for o, s, k, n, p in zip(
            out, at["stride"], at["kernel"], x.shape[-rank:], at["pads"], strict=True
        ):  # what a window that is rounded up has beyond the padding does not count
            starts = np.arange(o) * s
            inside = np.multiply.outer(inside, np.minimum(starts + k, n + 2 * p) - starts)
        return [stack.sum(0) / inside]

    def axes(self, op: Op, eq: Equations) -> None:
        rank = len(op.attrs["kernel"])
        x = list(eq.of(op.inputs[0]))
        for i in range(len(x) - rank, len(x)):
            eq.pin(x[i], "slides over it")
            x[i] = Term(op.output.shape[i])
            eq.pin(x[i], "makes it by sliding")
        eq.set(op.output, x)

    def transfer(self, op: Op, flow: Flow) -> None:
        rank = len(op.attrs["kernel"])
        x = flow.of(op.inputs[0])

        def make(index: tuple[int, ...], fresh: Sequence[tuple[int, int]]) -> Cell:
            row: list[Cell] = list(np.ravel(x[index[: x.ndim - rank]]))
            nonneg = all_of(c.nonneg for c in row)
            if not fresh:
                return Cell(scale=flow.equal_scales([c.scale for c in row], "pools"), nonneg=nonneg)
            twins = tuple(
                all_of(c.twins[k] for c in row)
                if op.attrs["how"] == "mean" or flow.growth.equal(atom)
                else FALSE
                for k, (_, atom) in enumerate(fresh)
            )
            return Cell(all_of(c.zero for c in row), twins, None, nonneg)

        flow.set(op.output, flow.build(op.output, make))

    def vanishes(self, op: Op) -> Vanishing:
        return Vanishing((0,))


register("pool", Pool())
