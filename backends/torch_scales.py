"""Scalars on branches of a torch program: a new parameter times what a sum adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.repeat import ScaleEdit

aten = torch.ops.aten
_KEPT = frozenset({"nn_module_stack", "stack_trace", "torch_fn", "custom", "val"})


def scale(repeats: Any, edit: ScaleEdit, name: str, mapped: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Multiply the branch where it is added, in the source's nodes or in the copies ``mapped`` to; the new
    node.

    ``repeats`` are the steps of ``torch_clone``. Raises CarrierError where the branch is no operand of a
    node of the program.
    """
    adds, branch = repeats.nodes[edit.op.native.name], repeats.nodes.get(edit.branch.name)
    if branch is None or branch not in adds.all_input_nodes:
        raise CarrierError(
            f"the branch of {edit.op.where} is computed inside of the operator that adds it, so there is "
            "no place for a scalar; leave scalars=explicit out",
            place=edit.op.place,
        )
    adds, branch = mapped.get(adds, adds), mapped.get(branch, branch)
    scalar = repeats.scalar(name, branch, edit.value)
    with repeats.graph.inserting_before(adds):
        product = repeats.graph.call_function(aten.mul.Tensor, (branch, scalar))
    product.meta = {k: v for k, v in branch.meta.items() if k in _KEPT}
    adds.replace_input_with(branch, product)
    return product


__all__ = ["scale"]
