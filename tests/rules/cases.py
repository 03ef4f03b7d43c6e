"""Small graphs by name, ``kind: what``; the modules ``cases_*`` fill the table."""

from __future__ import annotations

from collections.abc import Callable

from meristem.rewrite.graph import Graph, Value
from tests.rules.view_carrier import Net

CASES: dict[str, Callable[[], Graph]] = {}


def case(name: str) -> Callable[[Callable[[Net], Value]], Callable[[Net], Value]]:
    """Register a graph; the function returns what a last dense layer reads."""

    def add(f: Callable[[Net], Value]) -> Callable[[Net], Value]:
        def build() -> Graph:
            b = Net()
            return b.output(b.dense(f(b), 2))

        CASES[name] = build
        return f

    return add


def hidden(b: Net, width: int = 6, rows: int = 2) -> Value:
    return b.dense(b.input(rows, 3), width)
