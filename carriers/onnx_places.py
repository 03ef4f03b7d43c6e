"""Module paths of ONNX nodes, as torch names them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from meristem.rewrite.numbering import replaced, within

_SCOPES = "pkg.torch.onnx.name_scopes"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
_RULE = "pkg.onnxscript.rewriter.rule_name"
KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


SCOPED = frozenset({_SCOPES, _FOLDED, "namespace"})
"""Metadata that hold module paths."""


def rescoped(text: str, modules: dict[str, str]) -> str:
    """A record with module paths renamed, wherever a path begins in it.

    Paths stand in lists of scopes (``'model.layers.0.mlp'``) and before class names
    (``model.layers.0.mlp: package.Class``).
    """
    if not modules:
        return text
    longest = sorted(modules, key=len, reverse=True)
    pattern = rf"(?<![\w.])({'|'.join(map(re.escape, longest))})(?!\w)"
    return re.sub(pattern, lambda m: modules[m.group(1)], text)


def renamed(name: str, modules: dict[str, str]) -> str:
    """A node's name that is a path (``/model/layers.0/mlp/MatMul``) with its module renamed."""
    if not name.startswith("/"):
        return name
    inner, _, leaf = name[1:].rpartition("/")
    joints = re.findall(r"[./]", inner)
    parts = replaced(inner.replace("/", "."), modules).split(".")
    if len(parts) != len(joints) + 1:
        return name
    return "/" + "".join(p + j for p, j in zip(parts, [*joints, ""], strict=True)) + f"/{leaf}"


def placed(record: Mapping[str, str], path: str) -> dict[str, str]:
    """The record of a new node in the module ``path``, after that of a node near it."""
    scopes = _list(record.get(_SCOPES))
    if not scopes:
        return {}
    parents = [s for s in scopes[:-1] if not s or within(path, [s])]
    return {_SCOPES: repr([*parents, *([] if path in parents else [path]), scopes[-1]])}


def beside(name: str, path: str, base: str) -> str:
    """The name of a new node in the module ``path``, where names are paths as that of a node near it is."""
    return f"/{path.replace('.', '/')}/{base}" if name.startswith("/") and path else base


def place_of(node: ir.Node) -> str:
    """The dotted path of the module that a node belongs to; empty where the file does not say.

    torch.export's files hold a list of scopes whose last entry is the operator, older ones a path
    in the node's name (``/model/layers.0/mlp/MatMul``). A node that stands for several (a convolution and
    the batch norm behind it) has the scope of one of them, and is where its weights are.
    """
    scopes = _list(node.metadata_props.get(_SCOPES))
    if scopes and _RULE not in node.metadata_props:
        return _module(scopes)
    if (node.name or "").startswith("/"):
        return ".".join(part for part in str(node.name).split("/")[1:-1])
    owners = [
        v.name.rpartition(".")[0]
        for v in node.inputs
        if v is not None and v.name and v.const_value is not None and "." in v.name
    ]
    return min(owners, key=len, default=_module(scopes))


def _module(scopes: list[str]) -> str:
    """The last scope that is a module; those that exporters make up start with an underscore."""
    for scope in reversed(scopes[:-1]):
        if scope.startswith("_empty_nn_module"):
            return ""
        if scope:
            return scope
    return ""


def _list(text: Any) -> list[str]:
    if not text:
        return []
    try:
        return [str(s) for s in ast.literal_eval(text)]
    except (SyntaxError, ValueError):
        return []


def folded_from(value: ir.Value) -> list[str]:
    """What an exporter computed an initialiser from: operators and stored tensors."""
    return _list(_record(value, _FOLDED))


def stored_names(value: ir.Value) -> list[str]:
    """The stored tensors (dotted paths) among them."""
    return [n for n in folded_from(value) if "." in n]


def kind_of(value: ir.Value) -> str:
    """What torch.export called the tensor: PARAMETER, BUFFER, CONSTANT_TENSOR, or empty."""
    return str(_record(value, KIND) or "")


def _record(value: ir.Value, key: str) -> str | None:
    """What an exporter noted on an initialiser, or on its tensor."""
    noted = value.metadata_props.get(key)
    if noted is None and value.const_value is not None:
        noted = value.const_value.metadata_props.get(key)
    return None if noted is None else str(noted)
