"""The edit script: a closed vocabulary of changes to a carrier, addressed by (native node, role).

Backends apply it; nothing in it decides anything. Weights are given as recipes (Expansions), sizes as
numbers, so that the same script serves a program in memory and a file on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meristem.rewrite.blocks import Ints
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array, Op, Slot, Weight


@dataclass(frozen=True, slots=True)
class SizeEdit:
    """The size at ``slot`` (its ``index``-th entry, or the number itself) changes from old to new.

    Where the carrier computes the entry (a dynamic size times a static one, or -1), the backend must
    make it give ``new / old`` times what it gives, which may mean doing nothing.
    """

    slot: Slot
    index: int | None
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class LiteralEdit:
    """The constant at ``slot`` becomes ``data`` (copy-on-write where the carrier shares constants)."""

    slot: Slot
    data: Array


@dataclass(frozen=True, slots=True)
class WeightEdit:
    """A stored tensor becomes what its recipe gives; ``donors`` are the further tensors that it reads."""

    weight: Weight
    expansion: Expansion
    donors: tuple[Weight, ...] = ()

    def make(self, old: Array) -> Array:
        """The new tensor, of the dtype of ``old``."""
        return self.expansion.apply(old, donors=[w.array() for w in self.donors])


@dataclass(frozen=True, slots=True)
class StatisticsEdit:
    """The normalisation of ``op.native`` takes mean and variance over ``old`` positions of ``axis`` only.

    y = (x - mean(x[old])) / sqrt(var(x[old]) + eps), then the affine part as before (docs/onnx.md).
    ``op`` is the norm in the view (attributes ``axes``, ``center``; its second input is epsilon).
    """

    op: Op
    axis: int
    old: Ints
    size: int


@dataclass(frozen=True, slots=True)
class MaskEdit:
    """New entries of ``weight`` along ``axis`` are multiplied by the mask; ``old`` positions are not."""

    weight: Weight
    axis: int
    old: Ints
    size: int


@dataclass(frozen=True, slots=True)
class BoundaryEdit:
    """An input (``output`` False) is padded with zeros, or an output is read at old positions.

    ``old`` are the positions of the old coordinates among ``size`` new ones along ``axis``. Where the
    interface is one of images (``resized``) these are the nearest, and inputs are interpolated.
    """

    name: str
    output: bool
    axis: int
    old: Ints
    size: int
    resized: bool = False


@dataclass
class EditScript:
    """Everything that one width growth changes."""

    sizes: list[SizeEdit] = field(default_factory=list)
    literals: list[LiteralEdit] = field(default_factory=list)
    weights: list[WeightEdit] = field(default_factory=list)
    statistics: list[StatisticsEdit] = field(default_factory=list)
    boundary: list[BoundaryEdit] = field(default_factory=list)
    interface: list[BoundaryEdit] = field(default_factory=list)
    """Inputs and outputs that grow themselves (``boundary="grow"``): what carriers record of them."""
    masks: list[MaskEdit] = field(default_factory=list)
    mask: float | None = None
    """The mask on new coordinates, which ``statistics`` weigh by; None without one."""

    @property
    def added_operators(self) -> list[str]:
        """What the grown program computes in addition, in words."""
        what = "statistics over old coordinates" if self.mask is None else "masked statistics"
        out = [f"{what} at {e.op.where}" for e in self.statistics]
        out += [f"mask on new entries of {m.weight.name}" for m in self.masks]
        return out + [
            f"{'crop of output' if b.output else 'padding of input'} {b.name}"
            for b in self.boundary
        ]
