"""Importing this module fills the lowering table of ONNX."""

from meristem.carriers import (
    onnx_ops_attention,
    onnx_ops_elementwise,
    onnx_ops_index,
    onnx_ops_layout,
    onnx_ops_linear,
    onnx_ops_norm,
    onnx_ops_reduce,
    onnx_ops_spatial,
)

__all__ = [
    "onnx_ops_attention",
    "onnx_ops_elementwise",
    "onnx_ops_index",
    "onnx_ops_layout",
    "onnx_ops_linear",
    "onnx_ops_norm",
    "onnx_ops_reduce",
    "onnx_ops_spatial",
]
