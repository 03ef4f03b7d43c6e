"""Depth outside of residual streams: layers that are the identity behind an idempotent activation.

Net2DeeperNet (arXiv:1511.05641). A layer behind which there can be others is a dimension ``layers@place``
of size 1, which only this method lists and grows; what new layers hold is in ``rewrite.deeper``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meristem.passes.layers import LayersPass
from meristem.rewrite.deeper import Site
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import SelectorError


class _Model(Protocol):
    @property
    def dimensions(self) -> Sequence[Dimension]: ...

    @property
    def sites(self) -> Mapping[str, Site]: ...


@dataclass(frozen=True)
class Net2Deeper(LayersPass):
    """Growth of single layers, each a dimension of size 1."""

    def dimensions(self, model: _Model) -> list[Dimension]:
        """Widths as ever, and every site in the place of the stacks.

        Raises SelectorError where the model has no site.
        """
        sites = [s.dimension() for s in model.sites.values()]
        if not sites:
            raise SelectorError(
                "net2deeper finds no linear layer or convolution with an activation directly behind it; "
                'method="identity" grows residual stacks'
            )
        return [*(d for d in model.dimensions if d.kind != "layers"), *sites]


NET2DEEPER = Net2Deeper("net2deeper", ("layers",), "more layers behind idempotent activations")
