"""What a block has with the outside besides its stream: inputs that it alone reads, outputs of its own.

A model that was exported with a key-value cache is the common case. A copy of such a block computes what
its source does, but a growth in depth adds neither inputs nor outputs, and has to say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from meristem.rewrite.graph import Graph, Input, Op, Value
from meristem.rewrite.residual import SAME
from meristem.rewrite.steps import Block

_MOVES = frozenset({*SAME, "permute", "expand", "slice"})


def own_inputs(block: Block, blocks: Sequence[Block]) -> list[str]:
    """Names of the inputs that a block reads and no other one of its stack does."""
    elsewhere = {v for b in blocks if b is not block for v in _read(b)}
    return [v.name for v in _read(block) if v not in elsewhere and v is not block.entry]


def own_outputs(block: Block, graph: Graph) -> list[str]:
    """Names of the outputs that are made in a block and are not its stream."""
    inside = set(block.ops)
    return [
        name for name, v in graph.outputs
        if _made(v, inside, block.exit)
    ]  # fmt: skip


def _read(block: Block) -> list[Input]:
    """Inputs that are read in a block, through layout and precision."""
    found: dict[Input, None] = {}
    for v in (v for op in block.ops for v in op.inputs):
        while v.producer is not None and _moves(v.producer):
            v = v.producer.inputs[0]
        if isinstance(v, Input):
            found[v] = None
    return list(found)


def _made(v: Value, inside: set[Op], stream: Value) -> bool:
    """Is an output made by these operators, and not the stream?"""
    while v is not stream and v.producer is not None:
        if v.producer in inside:
            return True
        if not _moves(v.producer):
            return False
        v = v.producer.inputs[0]
    return False


def _moves(op: Op) -> bool:
    """Does an operator hand entries on as they are? Caches begin as a concatenation of one part."""
    return op.kind in _MOVES or (op.kind == "concat" and len(op.inputs) == 1)


__all__ = ["own_inputs", "own_outputs"]
