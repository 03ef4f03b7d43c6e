"""Arrays as text, for recipes that hold values: a plan is JSON."""

from __future__ import annotations

import base64

import numpy as np

from meristem.rewrite.graph import Array


def pack(array: Array) -> str:
    """Entries in row-major order, in float32 where that is exact, else in float64."""
    wide = np.asarray(array, "<f8")
    with np.errstate(over="ignore"):  # what is no float32 is written in float64
        narrow = wide.astype("<f4")
    kind, data = ("f4", narrow) if np.array_equal(narrow, wide) else ("f8", wide)
    return f"{kind}:{base64.b64encode(np.ascontiguousarray(data).tobytes()).decode()}"


def unpack(text: str, shape: tuple[int, ...]) -> Array:
    """The array behind ``pack``, in float64. Raises ValueError where the text holds no such array."""
    kind, _, data = text.partition(":")
    if kind not in ("f4", "f8"):
        raise ValueError(f"{kind!r} is no type of packed entries")
    entries = np.frombuffer(base64.b64decode(data, validate=True), f"<{kind}")
    return entries.reshape(shape).astype(np.float64)
