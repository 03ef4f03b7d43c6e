"""Repeats: copies of a part of the program that carriers make, a block of a stack or an expert."""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.rewrite.graph import Op, Value, Weight
from meristem.rewrite.made import COPY, Constant, Made, Rebuilt
from meristem.rewrite.numbering import replaced, within
from meristem.rewrite.steps import Block


@dataclass(frozen=True)
class ConvEdit:
    """A copied convolution has stride and dilation 1, this odd kernel, padded to keep sizes, and groups."""

    op: Op
    kernel: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class ScaleEdit:
    """Where ``op`` adds ``branch``, it adds it times a new scalar parameter ``name`` of this value; its
    copies do so too, each with a parameter of its own."""

    op: Op
    branch: Value
    name: str
    value: float


@dataclass(eq=False, kw_only=True)
class Repeat:
    """A copy of ``block``.

    ``modules`` maps the source's module paths to the copy's; a weight outside of them is named with
    ``tag``. ``made`` are recipes of copies that hold something else than their source; ``gate`` is the name
    of a new scalar parameter, zero. ``origins`` are weights whose copies are made of another one, ``convs``
    convolutions that are copied with other attributes.
    """

    block: Block
    tag: str
    modules: dict[str, str] = field(default_factory=dict)
    made: dict[Weight, Made] = field(default_factory=dict)
    gate: str | None = None
    origins: dict[Weight, Weight] = field(default_factory=dict)
    convs: tuple[ConvEdit, ...] = ()

    @property
    def zeroed(self) -> dict[Weight, float]:
        """Weights of the source whose copies are filled with a constant."""
        return {w: m.value for w, m in self.made.items() if isinstance(m, Constant)}

    @property
    def halves(self) -> list[Weight]:
        """Weights of the source whose copies hold halves that are equal or opposite."""
        return [w for w, m in self.made.items() if isinstance(m, Rebuilt)]

    def how(self, w: Weight) -> Made:
        """The recipe of a weight's copy."""
        return self.made.get(w, COPY)

    def name(self, old: str) -> str:
        """What the copy of a stored tensor is called."""
        if within(old, self.modules):
            return replaced(old, self.modules)
        place, dot, leaf = old.rpartition(".")
        return f"{place}{dot}{leaf}_{self.tag}" if not place else f"{place}_{self.tag}.{leaf}"


__all__ = ["ConvEdit", "Repeat", "ScaleEdit"]
