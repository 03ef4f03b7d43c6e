"""Operator semantics by family. Importing this package fills the registry."""

from meristem.rewrite.registry import Semantics, kinds, register, semantics
from meristem.rewrite.semantics import (
    barrier,
    contraction,
    elementwise,
    factory,
    gather,
    layout,
    norm,
    pad,
    pool,
    power,
    reduce,
    scatter,
)

__all__ = [
    "Semantics",
    "barrier",
    "contraction",
    "elementwise",
    "factory",
    "gather",
    "kinds",
    "layout",
    "norm",
    "pad",
    "pool",
    "power",
    "reduce",
    "register",
    "scatter",
    "semantics",
]
