"""Growth as a pass of torch.fx, for PassManager and pipelines that call passes on GraphModules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.utils import _pytree as pytree

import meristem
from meristem.integrations.growing import refuse_batch_of_one
from meristem.integrations.growth import LAST, META, Growth, Sizes, other_shapes

_ADVICE = (
    "give the pass example inputs (args=, kwargs=) of a batch of at least 2, or put their shapes into the "
    "graph with torch.fx.passes.fake_tensor_prop.FakeTensorProp or torch.fx.passes.shape_prop.ShapeProp"
)


class GrowGraphModule(PassBase):
    """Grow a GraphModule; arguments as of ``meristem.grow``, a plan in place of sizes too.

    ``args`` and ``kwargs`` are example inputs, and ``dynamic_shapes`` as of ``meristem.trace``. Without
    them shapes and types are those that the placeholders state in ``meta["val"]`` (of torch.export and
    FakeTensorProp) or ``meta["tensor_meta"]`` (of ShapeProp). The result is another GraphModule, of the
    same calling convention and names of weights, in eval mode; the given one stays as it is. ``verify``
    measures the growth before it is handed on.

    ``modified`` is False where nothing grows, and where this pass has grown the module before: a manager
    that repeats its passes does not grow it twice. Raises what ``meristem.grow`` raises, CarrierError where
    there are no example inputs, and NotPreserved where a measurement finds a difference or the module has
    other weights than the plan.
    """

    def __init__(
        self,
        sizes_or_plan: Sizes | meristem.Plan,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        dynamic_shapes: Any = "auto",
        verify: bool = False,
        **options: Any,
    ) -> None:
        self.growth = Growth(sizes_or_plan, verify, options)
        self.args, self.kwargs, self.dynamic_shapes = args, kwargs, dynamic_shapes

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """As the base class does, but ``ensures`` sees the module that the pass gives."""
        self.requires(graph_module)
        result = self.call(graph_module)
        self.ensures(result.graph_module)
        return result

    def requires(self, graph_module: GraphModule) -> None:
        """Raises CarrierError where there is no GraphModule, or no example inputs to trace it with, and
        MeristemError where these are a batch of one, which would fix the batch."""
        if not isinstance(graph_module, GraphModule):
            raise meristem.CarrierError(
                f"{type(graph_module).__name__} is no GraphModule; torch.fx.symbolic_trace makes one, and "
                "meristem.trace takes any module"
            )
        if self.plan(graph_module) is None:
            self._example(graph_module)

    def call(self, graph_module: GraphModule) -> PassResult:
        graph_module.meta.pop(LAST, None)
        if self.plan(graph_module) is not None:
            return PassResult(graph_module, False)
        args, kwargs = self._example(graph_module)
        model = meristem.trace(graph_module, args, kwargs, self.dynamic_shapes)
        grown = self.growth.carried_out(model)
        plan = grown.plan
        assert plan is not None
        if not plan.changes:
            return PassResult(graph_module, False)
        module = grown.module()
        module.meta[META] = {**graph_module.meta.get(META, {}), self.growth.token: plan}
        module.meta[LAST] = self.growth.token
        return PassResult(module, True)

    def ensures(self, graph_module: GraphModule) -> None:
        """Raises NotPreserved where this pass has grown the module last, and a weight has another shape
        than in the plan."""
        plan = self.plan(graph_module)
        if plan is None or graph_module.meta.get(LAST) != self.growth.token:
            return
        graph_module.graph.lint()
        stored = {n: tuple(t.shape) for n, t in graph_module.state_dict().items()}
        for name, planned, found in other_shapes(plan, stored):
            raise meristem.NotPreserved(
                f"{name} is {found} in the module, {planned} in the plan", weight=name
            )

    def plan(self, graph_module: GraphModule) -> meristem.Plan | None:
        """What this pass did to a module, while it is in memory; None where it did not make it."""
        plans: dict[str, meristem.Plan] = graph_module.meta.get(META, {})
        return plans.get(self.growth.token)

    def _example(self, module: GraphModule) -> tuple[tuple[Any, ...], dict[str, Any]]:
        found = self._given(module)
        if self.dynamic_shapes is not None:
            refuse_batch_of_one(found, "the example inputs are")
        return found

    def _given(self, module: GraphModule) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Example inputs of the caller, or of what the placeholders state."""
        if self.args is not None or self.kwargs is not None:
            return tuple(self.args or ()), dict(self.kwargs or {})
        flat = [_stated(n) for n in module.graph.nodes if n.op == "placeholder"]
        info = getattr(module.graph._codegen, "pytree_info", None)
        if info is None:
            return tuple(flat), {}
        args, kwargs = pytree.tree_unflatten(flat, info.in_spec)
        return tuple(args), dict(kwargs)


def _stated(node: Node) -> Any:
    """A tensor of the shape and type that a placeholder states; CarrierError where it states none."""
    found = node.meta.get("val", node.meta.get("tensor_meta"))
    if isinstance(found, (int, float, bool, str)):
        return found
    if found is None or not hasattr(found, "shape") or not hasattr(found, "dtype"):
        raise meristem.CarrierError(
            f"the placeholder {node.name} states no tensor; {_ADVICE}", node=node.name
        )
    # Zero is an index of any table, and True lets a mask attend.
    value = 1 if found.dtype == torch.bool or found.dtype.is_floating_point else 0
    device = found.device if isinstance(found, torch.Tensor) else "cpu"
    return torch.full([_number(n) for n in found.shape], value, dtype=found.dtype, device=device)


def _number(size: Any) -> int:
    """A size; of a symbolic one that which it was traced with, or 2 where it had none."""
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else 2


__all__ = ["GrowGraphModule"]
