"""Larger images: more patches of the same size, with tables of positions interpolated over their grid.

AutoProg (arXiv:2203.14509) and CompoundGrow (arXiv:2010.12562) train on small images first. The old
function is not defined on larger ones, so this preserves nothing; what must be larger is in
``rewrite.grids``, how tables are interpolated in ``rewrite.resizing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from meristem.passes.base import WidthPass
from meristem.rewrite.axes import Term
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.grids import Images


class _Model(Protocol):
    @property
    def dimensions(self) -> Sequence[Dimension]: ...

    @property
    def images(self) -> Images: ...


@dataclass(frozen=True)
class Image(WidthPass):
    """The sides of images, each a dimension that only ``method="interpolate"`` lists and grows."""

    def dimensions(self, model: _Model) -> list[Dimension]:
        """All that ever grows, and the sides of every image."""
        return [*model.dimensions, *model.images.dimensions]

    def options(self, d: Dimension, lifted: bool) -> list[Term]:
        """The grid along that side: patches keep their size."""
        return list(d.inner)

    def why(self, steps: Sequence[int]) -> str:
        """Sizes are whole patches."""
        return f"it is read in patches of {steps[0]}"


IMAGE = Image("image", ("image",), "larger images, positions interpolated over the grid")
