"""Growth between other passes of torch.fx, on what torch.export and what symbolic tracing give.

python examples/fx_pass.py
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule, symbolic_trace
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint

from meristem.demo_model import Decoder, Sizes
from meristem.integrations import GrowGraphModule

# float32; the two models add the same numbers in another order.
TOLERANCE = 1e-4


def remove_dead_code(module: GraphModule) -> PassResult:
    return PassResult(module, module.graph.eliminate_dead_code())


def exported() -> float:
    """The module of an exported program states the shapes of its inputs, so no example is needed."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 256, (2, 12))
    module = torch.export.export(
        Decoder(Sizes()).eval(), (tokens,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    grow = GrowGraphModule({"mlp": "x2", "heads": "+2", "layers": "+1"})
    manager = PassManager([remove_dead_code, grow], steps=3)
    manager.add_constraint(this_before_that_pass_constraint(remove_dead_code, grow))
    larger = manager(module).graph_module
    plan = grow.plan(larger)
    assert plan is not None
    print("exported:", ", ".join(f"{c.name} {c.before} -> {c.after}" for c in plan.changes))
    return float((larger(tokens) - module(tokens)).abs().max())


def symbolically_traced() -> float:
    """A graph without shapes: the pass is given example inputs, and measures what it did."""
    torch.manual_seed(0)
    module = symbolic_trace(
        torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.GELU(), torch.nn.Linear(12, 3))
    )
    x = torch.randn(4, 8)
    larger = PassManager([GrowGraphModule({"mlp": "x2"}, (x,), verify=True)])(module).graph_module
    print("symbolically traced:", [tuple(p.shape) for p in larger.parameters()])
    return float((larger(x) - module(x)).abs().max())


def main() -> None:
    with torch.no_grad():
        errors = exported(), symbolically_traced()
    print("largest differences:", ", ".join(f"{e:.1e}" for e in errors))
    assert max(errors) < TOLERANCE


if __name__ == "__main__":
    main()
