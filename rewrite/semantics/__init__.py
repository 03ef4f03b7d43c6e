"""Operator semantics by family. Importing this package fills the registry."""

from meristem.rewrite.semantics import (
    barrier,
    contraction,
    elementwise,
    factory,
    gather,
    layout,
    norm,
    pool,
    reduce,
)
from meristem.rewrite.registry import Semantics, kinds, register, semantics

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
    "pool",
    "reduce",
    "register",
    "semantics",
]
