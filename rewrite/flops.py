"""FLOPs of one run of a program: its products of matrices and convolutions, counted on the view.

One counter serves both carriers, for both have the view. The convention is that of torch's own counter: a
product [n, k] [k, m] is 2 n k m FLOPs, a convolution 2 for every tap of every entry of the result, and what
costs in proportion to what it reads or writes (sums, norms, activations, softmax) is not counted. Sizes are
those of the view, dynamic axes at the sizes that it was made with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from meristem.rewrite.graph import Graph, Op, Value


@dataclass(frozen=True)
class Flops:
    """``total`` of one run; ``by`` splits it by the kinds of operators; ``unknown`` counts operators
    without semantics by their native names, of which nothing is known (the total is too low by theirs);
    ``inputs`` are the shapes that it was counted at."""

    total: int
    by: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def count_flops(graph: Graph) -> Flops:
    """The FLOPs of one run of ``graph`` at the shapes of its view."""
    by: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for op in graph.ops:
        if op.kind in _FORMULAS:
            by[op.kind] += _FORMULAS[op.kind](op)
        elif op.kind == "opaque":
            unknown[op.origin or op.kind] += 1
    inputs = {v.name: tuple(v.shape) for v in graph.inputs}
    return Flops(sum(by.values()), dict(by), dict(unknown), inputs)


def _contract(op: Op) -> int:
    """2 for every combination of labels."""
    a, b, _ = op.attrs["labels"]
    sizes = dict(zip(a, op.inputs[0].shape, strict=True))
    sizes |= dict(zip(b, op.inputs[1].shape, strict=True))
    return 2 * prod(sizes.values())


def _conv(op: Op) -> int:
    """Of x [n, g, c, *s] with w [g, o, c, *k]: 2 c prod(k) for every entry of the result.

    A transposed one is lowered to a convolution, of a flipped kernel, with an operand that has zeros
    between its entries and around them; these cost nothing: it is 2 o prod(k) for every entry before.
    """
    made, kernel = (_inside(v, op) for v in op.inputs)
    _, outs, _, *taps = op.inputs[1].shape
    if any(p.kind == "rearrange" and p.attrs["how"] == "flip" for p in kernel):
        operand = made[-1].inputs[0] if made else op.inputs[0]
        return 2 * prod(operand.shape) * outs * prod(taps)
    return 2 * prod(op.output.shape) * prod(op.inputs[1].shape[2:])


def _inside(v: Value, op: Op) -> list[Op]:
    """The operators before an operand that belong to the same native node, the last of them first."""
    out: list[Op] = []
    while v.producer is not None and v.producer.native is op.native:
        out.append(v.producer)
        v = v.producer.inputs[0]
    return out


def _grouped(op: Op) -> int:
    """Every row of x [n, k] meets one of the matrices [k, m]."""
    return 2 * op.inputs[0].shape[0] * prod(op.inputs[1].shape[1:])


_FORMULAS: Mapping[str, Callable[[Op], int]] = {
    "contract": _contract,
    "conv": _conv,
    "grouped_contract": _grouped,
}

__all__ = ["Flops", "count_flops"]
