"""Where two models part: values on the way, old coordinates of the grown ones against the original's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerAgreement:
    """How one value on the way agrees, in float64.

    ``value`` is its name in the original, ``op`` the operator that makes it, ``place`` the module path or
    repeated block that it is in. ``error`` is the largest absolute difference between the old coordinates
    of the grown value (without the factor that they carry) and the original's, ``scale`` the largest
    magnitude of the original's, ``sqnr`` is in dB. ``located``: does the function part here, before
    anything that it computes from? Then ``weights`` are those that feed the operator.
    """

    value: str
    op: str
    place: str
    error: float
    scale: float
    sqnr: float
    located: bool = False
    weights: tuple[str, ...] = ()


__all__ = ["LayerAgreement"]
