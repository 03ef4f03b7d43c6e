"""Scalars on branches of an ONNX model: a new initialiser times what a sum adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from meristem.carriers.onnx_places import KIND
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.repeat import ScaleEdit


def scale(
    repeats: Any,
    edit: ScaleEdit,
    name: str,
    nodes: Mapping[ir.Node, ir.Node],
    values: Mapping[ir.Value, ir.Value],
) -> ir.Node:
    """Multiply the branch where it is added, in the source's nodes or in their copies; the new node.

    ``repeats`` are the steps of ``onnx_clone``; ``nodes`` and ``values`` map to the copies. Raises
    CarrierError where the branch is no input of a node of the file.
    """
    editor = repeats.editor
    old = editor.node(edit.op.native)
    branch = next(
        (
            v
            for v in old.inputs
            if v is not None and repeats.names.get(v, v.name) == edit.branch.name
        ),
        None,
    )
    if branch is None:
        raise CarrierError(
            f"the branch of {edit.op.where} is computed inside of the operator that adds it, so there is "
            "no place for a scalar; leave scalars=explicit out",
            place=edit.op.place,
        )
    adds, branch = nodes.get(old, old), values.get(branch, branch)
    scalar = editor.constant(np.full((), edit.value), edit.branch.dtype, name)
    scalar.metadata_props[KIND] = "PARAMETER"
    out = ir.Value(name=editor.fresh_name(f"{name}.mul"), type=branch.type, shape=branch.shape)
    made = branch.producer()
    node = ir.node(
        "Mul", [branch, scalar], outputs=[out], name=editor.fresh_name(f"node_{name}.mul"),
        metadata_props=dict((made if made is not None else adds).metadata_props),
    )  # fmt: skip
    repeats.graph.append(node)
    for i, v in enumerate(adds.inputs):
        if v is branch:
            adds.replace_input_with(i, out)
    return node


__all__ = ["scale"]
