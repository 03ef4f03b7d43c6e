"""ONNX operators on spatial axes that are linear along each of them: resize, padding, upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from meristem.carriers.onnx_ops import Call, Declined, axes_of
from meristem.carriers.onnx_ops import onnx as lowers
from meristem.carriers.onnx_ops_linear import window_pads
from meristem.carriers.spatial import along, transposed_convolution
from meristem.rewrite.graph import Array, Value


@lowers("Resize", "Upsample")
def resize(c: Call) -> Value:
    """Every mode is linear and works axis by axis, so each axis is multiplied by a table of weights."""
    x = c.x(0)
    rank = len(x.shape)
    axes = axes_of(c.attr("axes") or range(rank), rank)
    if _text(c, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Declined("reads a region")
    scales, sizes = _targets(c, x, axes)
    for a, scale, size in zip(axes, scales, sizes, strict=True):
        if size != x.shape[a] or scale != 1.0:
            x = along(c.b, x, a, _weights(c, x.shape[a], scale, size))
    if not (c.has(3) and c.const(3).size):
        return c.b.apply("identity", x)
    # The sizes of axes that stay are stated too.
    role = ("map", tuple((a, ("entry", 3, k)) for k, a in enumerate(axes)))
    return c.b.reshape(x, x.shape, role)


def _targets(c: Call, x: Value, axes: Sequence[int]) -> tuple[list[float], list[int]]:
    """Scale and size of every listed axis."""
    at = 1 if c.node.op_type == "Upsample" or c.version < 11 else 2
    if c.has(3) and c.const(3).size:
        if _text(c, "keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Declined("keeps the aspect ratio")
        sizes = c.ints(3)
        return [n / x.shape[a] for n, a in zip(sizes, axes, strict=True)], sizes
    given = c.ints_of(at, "scales") if not c.has(at) else None
    scales = [float(s) for s in (np.ravel(c.const(at)) if given is None else given)]
    return scales, [int(np.floor(x.shape[a] * s)) for s, a in zip(scales, axes, strict=True)]


def _text(c: Call, name: str, default: str) -> str:
    found = c.attr(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)


def _weights(c: Call, n: int, scale: float, size: int) -> Array:
    """w[i, j]: what coordinate i gives to j, by resizing unit vectors with ONNX's reference."""
    if c.node.op_type == "Upsample" or c.version < 11:
        if _text(c, "mode", "nearest") != "nearest":
            raise Declined("interpolates by the rule of an old opset")
        source = np.minimum(np.floor(np.arange(size) / scale), n - 1)
        return np.asarray(np.arange(n)[:, None] == source[None, :], np.float64)
    kept = {a.name: onnx.helper.get_attribute_value(a) for a in _attributes(c) if a.name != "axes"}
    inputs = ["x", "", "", "s"] if c.has(3) and c.const(3).size else ["x", "", "s"]
    target: Any = np.array([n, size]) if inputs[-2:] == ["", "s"] and len(inputs) == 4 else None
    if target is None:
        target = np.array([1.0, scale], np.float32)
    node = onnx.helper.make_node("Resize", inputs, ["y"], **kept)
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(d)) for d in (np.float64, target.dtype)]
    given = [
        onnx.helper.make_tensor_value_info("x", kinds[0], (n, n)),
        onnx.helper.make_tensor_value_info("s", kinds[1], (2,)),
    ]
    graph = onnx.helper.make_graph([node], "resize", given, [onnx.ValueInfoProto(name="y")])
    imports = [onnx.helper.make_opsetid("", max(c.version, 11))]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    (out,) = ReferenceEvaluator(model).run(None, {"x": np.eye(n), "s": target})
    if out.shape != (n, size):
        raise Declined("the reference gives another size")
    return np.asarray(out, np.float64)


def _attributes(c: Call) -> list[onnx.AttributeProto]:
    import onnx_ir as ir

    return list(ir.to_proto(c.node).attribute)


def mirrored(c: Call, x: Value, pads: Sequence[tuple[int, int]], mode: str) -> Value:
    """Padding by entries of the operand: along each padded axis a table of zeros and ones."""
    for axis, (lo, hi) in enumerate(pads):
        if lo or hi:
            places = np.pad(np.arange(x.shape[axis]), (lo, hi), mode=_PAD_MODES[mode])
            x = along(c.b, x, axis, np.eye(x.shape[axis])[:, places])
    return x


_PAD_MODES: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@lowers("ConvTranspose")
def conv_transpose(c: Call) -> Value:
    if _text(c, "auto_pad", "NOTSET") != "NOTSET" or c.attr("output_shape"):
        raise Declined("states its output")
    x, w = c.x(0), c.x(1)
    rank = len(x.shape) - 2
    groups = int(c.attr("group", 1))
    strides = list(c.attr("strides") or [1] * rank)
    dilations = list(c.attr("dilations") or [1] * rank)
    extra = list(c.attr("output_padding") or [0] * rank)
    y = transposed_convolution(
        c.b, x, w, c.maybe(2), stride=strides, pads=window_pads(c, x.shape[2:], w.shape[2:]),
        dilation=dilations, extra=extra, groups=groups, groups_role=("attr", "group"),
    )  # fmt: skip
    if y is None:
        raise Declined("crops more than a kernel")
    return y
