"""Importing this module fills the lowering table of ATen."""

from meristem.carriers import aten_along, aten_elementwise, aten_layout, aten_linear

__all__ = ["aten_along", "aten_elementwise", "aten_layout", "aten_linear"]
