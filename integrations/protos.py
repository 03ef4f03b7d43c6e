"""Growth of an ``onnx.ModelProto``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

import meristem
from meristem.integrations.growth import Growth, Sizes


def grow_proto(
    model: onnx.ModelProto,
    sizes_or_plan: Sizes | meristem.Plan,
    *,
    base_dir: str | Path | None = None,
    verify: bool = False,
    **options: Any,
) -> onnx.ModelProto:
    """A larger model that computes the same function; other arguments as of ``meristem.grow``.

    The given model stays as it is. ``base_dir`` is the folder of its external data (default: the current
    one), which are read: every weight of the result is inside of it.

    Raises what ``meristem.grow`` raises, CarrierError where external data cannot be read, OutputError where
    the result is larger than a ModelProto can be (2 GB: give ``meristem.load`` the path, and save to a
    path), and NotPreserved where ``verify`` finds a difference.
    """
    if not isinstance(model, onnx.ModelProto):
        raise meristem.CarrierError(
            f"grow_proto takes an onnx.ModelProto, not {type(model).__name__}; meristem.load takes paths "
            "and other models"
        )
    loaded = meristem.load(model, base_dir=base_dir)
    proto: onnx.ModelProto = Growth(sizes_or_plan, verify, options).carried_out(loaded).onnx_proto
    return proto


__all__ = ["grow_proto"]
