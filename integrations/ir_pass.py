"""Growth as a pass of onnx_ir, for pipelines of its passes and of onnxscript's rewriter."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

import meristem
from meristem.integrations.growth import LAST, META, Growth, Sizes, other_shapes
from meristem.integrations.ir_in_place import become


class GrowModel(InPlacePass):
    """Grow an ``onnx_ir.Model`` in place; arguments as of ``meristem.grow``, a plan in place of sizes too.

    The Model, its Graph and every value whose name stays are the same objects afterwards. ``verify``
    measures the growth before the model is changed (docs/verify.md). The model is changed as a whole or,
    where anything is refused, not at all; its grown weights are computed when they are read.

    ``modified`` is False where nothing grows, and where this pass has grown the model before: a manager
    that repeats its passes does not grow it twice. Raises PreconditionError where the model cannot be read
    or the growth is refused (its cause is the MeristemError that says why), PostconditionError where a
    measurement finds a difference or the model has other weights than the plan.
    """

    def __init__(
        self, sizes_or_plan: Sizes | meristem.Plan, *, verify: bool = False, **options: Any
    ) -> None:
        self.growth = Growth(sizes_or_plan, verify, options)

    def requires(self, model: ir.Model) -> None:
        """Raises PreconditionError where the growth would be refused; nothing is changed."""
        if self.plan(model) is None:
            self._grown(model)

    def call(self, model: ir.Model) -> PassResult:
        model.meta.pop(LAST, None)
        if self.plan(model) is not None:
            return PassResult(model, modified=False)
        loaded, grown = self._grown(model)
        plan = grown.plan
        assert plan is not None
        if not plan.changes:
            return PassResult(model, modified=False)
        try:
            self.growth.measured(loaded, grown)
        except meristem.NotPreserved as error:
            raise PostconditionError(str(error)) from error
        become(model, grown.onnx_model)
        model.meta[META] = {**model.meta.get(META, {}), self.growth.token: plan}
        model.meta[LAST] = self.growth.token
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Raises PostconditionError where this pass has grown the model last, and a weight has another
        shape than in the plan."""
        plan = self.plan(model)
        if plan is None or model.meta.get(LAST) != self.growth.token:
            return
        stored = {
            name: tuple(v.const_value.shape)
            for name, v in model.graph.initializers.items()
            if v.const_value is not None
        }
        for name, planned, found in other_shapes(plan, stored):
            raise PostconditionError(f"{name} is {found} in the model, {planned} in the plan")

    def plan(self, model: ir.Model) -> meristem.Plan | None:
        """What this pass did to a model, while the model is in memory; None where it has not grown it."""
        plans: dict[str, meristem.Plan] = model.meta.get(META, {})
        return plans.get(self.growth.token)

    def _grown(self, model: ir.Model) -> tuple[meristem.Model, meristem.Model]:
        try:
            loaded = meristem.load(model)
            return loaded, self.growth.grown(loaded)
        except meristem.MeristemError as error:
            raise PreconditionError(f"{type(error).__name__}: {error}") from error


__all__ = ["GrowModel"]
