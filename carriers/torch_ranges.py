"""How long dynamic axes may be: the bounds that stored tables put on a program's symbols."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges


def widened(program: ExportedProgram, graph: fx.Graph) -> dict[Any, Any]:
    """The ranges of ``program``'s symbols for an edited ``graph``.

    torch.export bounds a symbol by the shortest table that is sliced up to it. Where that is the bound
    which stands in the program, it follows the table; bounds that the caller of export stated stay.
    """
    ranges = copy.deepcopy(program.range_constraints)
    before, after = bounds(program.graph), bounds(graph)
    for symbol, known in ranges.items():
        if symbol in before and known.upper == before[symbol]:
            ranges[symbol] = ValueRanges(known.lower, after.get(symbol, int_oo))
    return ranges


def bounds(graph: fx.Graph) -> dict[Any, int]:
    """For every symbol the size of the shortest axis that is sliced from its start up to it."""
    out: dict[Any, int] = {}
    for node in graph.nodes:
        if node.target is not torch.ops.aten.slice.Tensor or len(node.args) < 4:
            continue
        source, dim, start, end = node.args[:4]
        value = end.meta.get("val") if isinstance(end, fx.Node) else None
        size = source.meta["val"].shape[dim]  # type: ignore[union-attr]
        plain = isinstance(value, torch.SymInt) and value.node.expr.is_Symbol
        if plain and not start and isinstance(size, int):
            symbol = value.node.expr
            out[symbol] = min(size, out.get(symbol, size))
    return out
