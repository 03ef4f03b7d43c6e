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
    loaded = meristem.load(model if base_dir is None else _complete(model, base_dir))
    proto: onnx.ModelProto = Growth(sizes_or_plan, verify, options).carried_out(loaded).onnx_proto
    return proto


def _complete(model: onnx.ModelProto, base_dir: str | Path) -> onnx.ModelProto:
    """A copy with every weight inside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        onnx.load_external_data_for_model(copy, str(base_dir))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise meristem.CarrierError(
            f"the external data of the model cannot be read from {base_dir}: {error}; give the folder that "
            "the model was read from",
            path=str(base_dir),
        ) from error
    return copy


__all__ = ["grow_proto"]
