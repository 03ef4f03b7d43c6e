"""Growing a traced module: the view's evaluation and every accepted growth against torch in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from meristem.backends.program import apply_script, lift_tensors
from meristem.carriers.torch_carrier import TorchCarrier
from meristem.carriers.torch_double import double_module, double_tensors
from meristem.frontends.torch_view import view_torch
from meristem.frontends.trace import trace_module
from meristem.rewrite import interpret
from meristem.rewrite.axes import Term
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import CarrierError, MeristemError
from meristem.rewrite.graph import Graph
from meristem.rewrite.planner import solve
from meristem.rewrite.script import edit_script
from tests.rules.growing import Wrong, compare, free_atoms, jobs, pins


@dataclass
class Traced:
    """A traced module, its view, and its float64 outputs on the example inputs."""

    carrier: TorchCarrier
    graph: Graph
    eq: Equations
    inputs: list[torch.Tensor]
    before: list[torch.Tensor]

    def free(self) -> list[Term]:
        return free_atoms(self.eq)


@dataclass
class Grown:
    """What a module accepted and refused."""

    accepted: list[tuple[int, ...]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)


def traced(module: torch.nn.Module, args: Sequence[Any], dynamic_shapes: Any = None) -> Traced:
    carrier = trace_module(module, tuple(args), None, dynamic_shapes)
    graph = view_torch(carrier)
    eq = Equations(graph).solve()
    inputs = [a for a in args if isinstance(a, torch.Tensor)]
    before = _outputs(double_module(carrier), inputs)
    return Traced(carrier, graph, eq, inputs, before)


def _outputs(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [t for t in module(*inputs) if isinstance(t, torch.Tensor)]


def check_evaluation(t: Traced) -> None:
    """numpy through the view equals torch through the program, both in float64."""
    given = {v.name: x.numpy() for v, x in zip(t.graph.inputs, t.inputs, strict=True)}
    got = interpret.run(t.graph, given)
    for (name, _), new, old in zip(t.graph.outputs, got, t.before, strict=True):
        compare(np.asarray(new, old.numpy().dtype), old.numpy(), f"evaluation of {name}")


def grow(t: Traced, sizes: Mapping[Term, int], **options: Any) -> TorchCarrier:
    """One growth, compared in float64; Wrong where it differs, MeristemError where it is refused."""
    solution = solve(t.eq, sizes, **options)
    script = edit_script(solution)
    try:
        grown = apply_script(t.carrier, script)
    except CarrierError as why:
        raise Wrong(f"the grown program does not fit together: {why}") from why
    edits = {name: e for e in script.weights for name in e.weight.names}
    tensors = lift_tensors(double_tensors(t.carrier.tensors), edits)
    after = _outputs(double_module(grown, tensors), t.inputs)
    for (name, _), new, old in zip(t.graph.outputs, after, t.before, strict=True):
        compare(new.numpy(), old.numpy(), f"output {name}")
    return grown


def grow_module(t: Traced, modes: Sequence[str] = ("graph", "weights")) -> Grown:
    """Every free atom alone, and all together."""
    out = Grown(pinned=pins(t.eq))
    for compensate in modes:
        for job in jobs(t.free()):
            sizes = {a: a.size + max(1, a.size // 2) for a in job}
            try:
                grow(t, sizes, compensate=compensate)
            except Wrong as why:
                raise Wrong(f"{compensate} growth of {[a.size for a in job]}: {why}") from why
            except MeristemError as why:
                out.refused.append(f"{compensate}: {why}")
            else:
                out.accepted.append(tuple(a.size for a in job))
    return out
