"""Names of new blocks and of the modules behind them, as the original class would number them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meristem.rewrite.graph import Graph
from meristem.rewrite.numbering import join, within

if TYPE_CHECKING:
    from meristem.rewrite.depth import DepthScript
    from meristem.rewrite.stacks import Stack


def renumber(graph: Graph, script: DepthScript) -> None:
    """Names of copies, and of the modules behind them: a container counts on, as a list would."""
    inserts: list[tuple[Stack, str, int, int]] = []  # stack, container, from this number on, by
    for c in script.clones:
        if c.stack.numbering is not None:
            for container in dict(c.stack.numbering.modules):
                start = min(n for k, n in c.stack.numbering.modules if k == container)
                stride = c.stack.numbering.stride
                inserts.append((c.stack, container, start + stride * c.position, stride))
    for c in script.clones:
        numbering = c.stack.numbering
        if numbering is not None:
            slot = dict(zip(numbering.modules, numbering.of(c.source), strict=True))
            for (container, first), old in slot.items():
                others = sum(
                    by
                    for s, k, n, by in inserts
                    if s is not c.stack and k == container and n <= first
                )
                new = first + numbering.stride * (c.position + c.rank) + others
                c.modules[old] = join(container, new)
    for container in dict.fromkeys(k for _, k, _, _ in inserts):
        for number in _numbers(graph, container):
            by = sum(by for _, k, n, by in inserts if k == container and n <= number)
            if by:
                script.moves[join(container, number)] = join(container, number + by)
    own = {w for c in script.clones for b in c.stack.blocks for w in b.weights}
    blocks = {
        m
        for c in script.clones
        if c.stack.numbering is not None
        for i in range(c.stack.size)
        for m in c.stack.numbering.of(i)
    }
    script.kept = frozenset(
        n for w in graph.weights if w not in own for n in w.names if within(n, blocks)
    )


def _numbers(graph: Graph, container: str) -> list[int]:
    """The numbers in use in a container."""
    prefix = f"{container}." if container else ""
    paths = [n for w in (*graph.weights, *graph.unused) for n in w.names]
    paths += [op.place for op in graph.ops]
    heads = {p[len(prefix) :].split(".")[0] for p in paths if p.startswith(prefix)}
    return sorted(int(h) for h in heads if h.isdigit())
