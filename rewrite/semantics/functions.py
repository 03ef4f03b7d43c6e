"""The numpy functions behind the elementwise table: the oracle, in float64 where it matters."""

from __future__ import annotations

from math import erf as _erf
from typing import Any

import numpy as np

from meristem.rewrite.graph import Array

_verf = np.vectorize(_erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function in float64 (numpy has none)."""
    return np.asarray(_verf(np.asarray(x, np.float64)))


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + erf(np.asarray(x) / np.sqrt(2.0))))


def gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x))))


def elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return np.where(x > 0, x, slope * x)


def softplus(x: Array, beta: float = 1.0) -> Array:
    return np.asarray(np.logaddexp(0, beta * x) / beta)


def power(x: Array, p: Array) -> Array:
    return np.asarray(np.power(x, np.asarray(p, np.result_type(x, p))))


def floor_divide(x: Array, y: Array) -> Array:
    return np.asarray(np.floor_divide(x, y))


def cast(x: Array, to: str = "") -> Array:
    """Floating targets stay at the oracle's precision; integers and bools truncate."""
    if to.startswith(("float", "bfloat")):
        return np.asarray(x, np.float64) if np.asarray(x).dtype.kind != "f" else np.asarray(x)
    return np.asarray(x).astype(to)


def trailing(window: tuple[slice, ...]) -> Any:
    """An index of the last axes."""
    return (..., *window)
