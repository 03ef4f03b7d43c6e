"""Tensors of an ONNX file: names of types, stored values, and sizes of dynamic axes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.rewrite.graph import Array

# Analysis reads tensors below this size; larger ones are only streamed for equality.
SMALL_BYTES = 1 << 16

_NAMES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.BOOL: "bool",
    ir.DataType.STRING: "string",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: ir.DataType | None) -> str:
    """numpy's word for a type (``float32``); the lower-cased ONNX word where numpy has none."""
    if dtype is None:
        return "unknown"
    return _NAMES.get(dtype) or str(dtype.name).lower()


def dtype_of(name: str) -> ir.DataType:
    """The ONNX type of ``dtype_name``'s word."""
    return _TYPES.get(name) or ir.DataType[name.upper()]


def is_float(dtype: ir.DataType | None) -> bool:
    return dtype_name(dtype).startswith(("float16", "float32", "float64", "bfloat16"))


def stored(value: ir.Value | None) -> Any:
    """The tensor behind an initialiser or a Constant node's result; None for computed values."""
    if value is None:
        return None
    if value.const_value is not None and value.producer() is None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return _constant(node)


def _constant(node: ir.Node) -> Any:
    """The tensor of a Constant node in any of its spellings."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.asarray(attribute.value, np.float32))
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value, np.int64))
        if name in ("value_string", "value_strings"):
            return ir.tensor(np.asarray(attribute.value, object))
    return None


def read(tensor: Any) -> Array:
    """The stored values, copied out of the file so that the memory map can be released."""
    out = np.array(tensor.numpy())
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
    return out


def blocks(tensor: Any, size: int = 1 << 24) -> Iterator[bytes]:
    """The tensor's bytes piece by piece, for hashing without holding it."""
    flat = tensor.numpy().reshape(-1)
    step = max(1, size // max(flat.itemsize, 1))
    for start in range(0, flat.size, step):
        yield flat[start : start + step].tobytes()
    del flat
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()


def is_constant_valued(tensor: Any) -> bool:
    """Is every entry the same? Decided from the first entries where they already differ."""
    flat = tensor.numpy().reshape(-1)
    head = flat[:1024]
    return bool(np.all(head == head[:1])) and bool(np.all(flat == head[:1]))


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Min": min,
    "Max": max,
    "min": min,
    "max": max,
    "floor": int,
    "Mod": operator.mod,
    "FloorDiv": operator.floordiv,
    "CeilToInt": int,
    "IntTrueDiv": operator.floordiv,
}


def size_of(dim: Any, hints: Mapping[str, int]) -> int | None:
    """The size of an axis under ``hints``: a number, a symbol, or an expression of symbols.

    Exporters write expressions as text (``s4*s40``, ``s40 + 1``, ``Min(64, s40)``); what cannot be
    read is None.
    """
    if isinstance(dim, int):
        return dim
    text = getattr(dim, "value", dim)
    if text is None:
        return None
    if text in hints:
        return hints[text]
    try:
        return int(_evaluate(ast.parse(str(text), mode="eval").body, hints))
    except (SyntaxError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _evaluate(tree: ast.expr, hints: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return hints[tree.id]
    if isinstance(tree, ast.BinOp):
        return int(
            _OPERATORS[type(tree.op)](_evaluate(tree.left, hints), _evaluate(tree.right, hints))
        )
    if isinstance(tree, ast.UnaryOp):
        return int(_OPERATORS[type(tree.op)](_evaluate(tree.operand, hints)))
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return int(_FUNCTIONS[tree.func.id](*(_evaluate(a, hints) for a in tree.args)))
    raise ValueError(ast.dump(tree))
