"""How a class numbers its blocks: ``model.layers.0.mlp``, ``model.layers.1.mlp``.

Names never decide what a block is. They say what a further block would be called, and which later
modules of the same container move up when blocks are inserted before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from meristem.rewrite.graph import Weight


@dataclass(frozen=True)
class Numbering:
    """Block i has the modules ``{container}.{first + stride * i}`` for every (container, first)."""

    modules: tuple[tuple[str, int], ...]
    stride: int

    def of(self, block: int) -> list[str]:
        """Module paths of a block."""
        return [join(c, n + self.stride * block) for c, n in self.modules]


def join(container: str, number: int) -> str:
    return f"{container}.{number}" if container else str(number)


def number_blocks(blocks: Sequence[Sequence[Weight]]) -> Numbering | None:
    """The numbering of corresponding parameters, by their names, or by the modules that read them
    where a file names them otherwise; None where neither shows one."""
    blocks = [[w for w in b if w.role == "parameter"] for b in blocks]
    if len({len(b) for b in blocks}) != 1 or not blocks[0]:
        return None
    return _numbered([[w.name for w in b] for b in blocks]) or _numbered(
        [[reader(w) for w in b] for b in blocks]
    )


def reader(w: Weight) -> str:
    """The name that a weight would have in the module that reads it."""
    return f"{w.uses[0][0].place}.weight" if w.uses else ""


def module_of(weights: Iterable[Weight]) -> tuple[str, int] | None:
    """Container and number of the module that all weights share, by names or by readers."""
    own = [w for w in weights if w.role == "parameter"]
    return last_number(_shared([w.name for w in own])) or last_number(
        _shared([reader(w) for w in own])
    )


def _numbered(blocks: Sequence[Sequence[str]]) -> Numbering | None:
    if len(blocks) == 1:
        found = last_number(_shared(blocks[0]))
        return None if found is None else Numbering((found,), 1)
    modules: dict[tuple[str, int], None] = {}
    strides = set()
    for row in zip(*blocks, strict=True):
        found_row = _differing([name.split(".") for name in row])
        if found_row is None:
            return None
        container, numbers = found_row
        modules.setdefault((container, numbers[0]))
        strides |= {b - a for a, b in pairwise(numbers)}
    stride = strides.pop() if len(strides) == 1 else 0
    return Numbering(tuple(modules), stride) if stride > 0 else None


def _differing(rows: Sequence[Sequence[str]]) -> tuple[str, list[int]] | None:
    """Container and numbers, if the paths differ in one number only."""
    if len({len(r) for r in rows}) != 1:
        return None
    columns = list(zip(*rows, strict=True))
    differ = [i for i, c in enumerate(columns) if len(set(c)) > 1]
    if len(differ) != 1 or not all(part.isdigit() for part in columns[differ[0]]):
        return None
    at = differ[0]
    return ".".join(rows[0][:at]), [int(r[at]) for r in rows]


def _shared(names: Sequence[str]) -> str:
    rows = [n.split(".")[:-1] for n in names]
    out = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        out.append(column[0])
    return ".".join(out)


def last_number(path: str) -> tuple[str, int] | None:
    """(container, number) of the last number in a module path."""
    parts = path.split(".")
    for i in range(len(parts) - 1, -1, -1):
        if parts[i].isdigit():
            return ".".join(parts[:i]), int(parts[i])
    return None


def replaced(name: str, modules: dict[str, str]) -> str:
    """A name or module path with its module renamed, if one of ``modules`` is or contains it."""
    for old, new in modules.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def within(name: str, modules: Iterable[str]) -> bool:
    """Is a name in one of the modules?"""
    return any(name == m or name.startswith(m + ".") for m in modules)
