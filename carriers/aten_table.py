"""Importing this module fills the lowering table of ATen."""

from meristem.carriers import (
    aten_along,
    aten_elementwise,
    aten_index,
    aten_layout,
    aten_linear,
    aten_spatial,
)

__all__ = [
    "aten_along",
    "aten_elementwise",
    "aten_index",
    "aten_layout",
    "aten_linear",
    "aten_spatial",
]
