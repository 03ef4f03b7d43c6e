"""Applying an edit script to a torch carrier: a new, verified ExportedProgram."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature, InputKind
from torch.utils import _pytree as pytree

from meristem.backends.torch_edits import GraphEditor
from meristem.carriers.torch_carrier import TorchCarrier, copied, storage_key
from meristem.carriers.torch_ranges import widened
from meristem.carriers.torch_shapes import fake_like, fake_mode_of, propagate
from meristem.rewrite.edits import BoundaryEdit, EditScript
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Weight


def apply_script(carrier: TorchCarrier, script: EditScript) -> TorchCarrier:
    """A new carrier with every edit applied; nothing is shared with the source."""
    module = copied(carrier.program)
    editor = GraphEditor(module.graph)
    tensors = grown_tensors(carrier, script)
    for literal in script.literals:
        editor.literal(literal, tensors, carrier)
    for size in script.sizes:
        editor.size(size, tensors, carrier)
    for norm in script.statistics:
        editor.statistics(norm)
    for edge in script.boundary:
        editor.boundary(edge, [s.arg.name for s in carrier.program.graph_signature.output_specs])
    grown = [e for e in script.interface if not e.output]
    for edge in grown:
        node = next(n for n in module.graph.nodes if n.op == "placeholder" and n.name == edge.name)
        sizes = list(node.meta["val"].shape)
        sizes[edge.axis] = edge.size
        node.meta["val"] = node.meta["val"].new_empty(sizes)
    return rebuild(carrier, module, tensors, example=_grown_example(carrier, grown))


def _grown_example(carrier: TorchCarrier, edges: Sequence[BoundaryEdit]) -> Any:
    """The example inputs with zeros at new coordinates."""
    given = carrier.program.example_inputs
    if not edges or given is None:
        return given
    leaves, spec = pytree.tree_flatten(given)
    names = [
        s.arg.name
        for s in carrier.program.graph_signature.input_specs
        if s.kind is InputKind.USER_INPUT
    ]
    for edge in edges:
        i = names.index(edge.name)
        shape = list(leaves[i].shape)
        shape[edge.axis] = edge.size
        old = torch.as_tensor(edge.old, device=leaves[i].device)
        leaves[i] = leaves[i].new_zeros(shape).index_copy(edge.axis, old, leaves[i])
    return pytree.tree_unflatten(leaves, spec)


def grown_tensors(carrier: TorchCarrier, script: EditScript) -> dict[str, torch.Tensor]:
    """All stored tensors by name after growth; tied names share one tensor, as before."""
    recipes = {name: e.expansion for e in script.weights for name in e.weight.names}
    return lift_tensors(carrier.tensors, recipes, {e.weight.name: e.weight for e in script.weights})


def lift_tensors(
    tensors: dict[str, torch.Tensor], recipes: dict[str, Expansion], weights: dict[str, Weight]
) -> dict[str, torch.Tensor]:
    """Apply recipes to tensors; copies of the others. Identity of tied tensors is kept."""
    done: dict[tuple[int, str], torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, old in tensors.items():
        recipe = recipes.get(name)
        key = (
            id(old) if old.numel() == 0 else old.data_ptr(),
            recipe.name if recipe else str(old.shape),
        )
        if key not in done:
            done[key] = like(old, grow_tensor(old, recipe) if recipe else old.detach().clone())
        out[name] = done[key]
    return out


def grow_tensor(old: torch.Tensor, recipe: Expansion) -> torch.Tensor:
    """Evaluate a recipe on a stored tensor, in its own dtype."""
    wide = old.detach().cpu()
    array = wide.float().numpy() if wide.dtype == torch.bfloat16 else wide.numpy()
    new = recipe.apply(array)
    return torch.from_numpy(np.ascontiguousarray(new)).to(old.dtype).to(old.device)


def like(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A Parameter where the source was one."""
    if isinstance(old, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=old.requires_grad)
    return new


def rebuild(
    carrier: TorchCarrier,
    module: fx.GraphModule,
    tensors: dict[str, torch.Tensor],
    signature: ExportGraphSignature | None = None,
    calls: list[ModuleCallEntry] | None = None,
    example: Any = None,
) -> TorchCarrier:
    """Re-propagate shapes and construct the program, which torch's own verifier checks.

    ``signature`` and ``calls`` replace the source's where names or inputs changed; stored tensors are
    then those that the signature names, in its order. ``example`` replaces the example inputs.
    """
    program = carrier.program
    graph = module.graph
    mode = fake_mode_of(program.graph)
    renamed = signature is not None
    signature = copy.deepcopy(signature or program.graph_signature)
    specs = signature.input_specs
    nodes = [n for n in graph.nodes if n.op == "placeholder"]
    for node, spec in zip(nodes, specs, strict=True):
        if spec.target in tensors and spec.kind is not InputKind.USER_INPUT:
            parameter = spec.kind is InputKind.PARAMETER
            node.meta["val"] = fake_like(mode, tensors[spec.target], parameter=parameter)
    try:
        propagate(graph, mode)
    except Exception as error:
        raise CarrierError(
            f"the grown program does not type-check: {error}; please report this model",
        ) from error
    graph.lint()
    module.recompile()
    if renamed:
        state, constants = stored_by(signature, tensors, program.constants)
    else:
        state = {k: tensors[k] for k in program.state_dict}
        constants = {k: tensors.get(k, v) for k, v in program.constants.items()}
    for spec, arg in zip(signature.output_specs, output_names(graph), strict=True):
        spec.arg.name = arg
    new = ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=signature,
        state_dict=state,
        range_constraints=widened(program, graph),
        module_call_graph=copy.deepcopy(calls or program.module_call_graph),
        example_inputs=program.example_inputs if example is None else example,
        constants=constants,
        verifiers=[program.verifier],
    )
    return TorchCarrier(
        new,
        dict(carrier.dropouts),
        list(carrier.lost),
        list(carrier.normalisations),
        {} if renamed else unused_tensors(carrier, tensors),
        carrier.gates,
    )


def unused_tensors(
    carrier: TorchCarrier, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Names that the program never had: tied to a stored tensor as before, else copies."""
    names = {storage_key(t): name for name, t in carrier.tensors.items()}
    return {
        name: tensors[names[storage_key(t)]]
        if storage_key(t) in names
        else like(t, t.detach().clone())
        for name, t in carrier.unused.items()
    }


def stored_by(
    signature: ExportGraphSignature, tensors: dict[str, torch.Tensor], constants: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and constants by the names of a signature."""
    state: dict[str, torch.Tensor] = {}
    other = {k: v for k, v in constants.items() if not isinstance(v, torch.Tensor)}
    for spec in signature.input_specs:
        if spec.target in tensors and spec.kind is not InputKind.USER_INPUT:
            lifted = spec.kind is InputKind.PARAMETER or (
                spec.kind is InputKind.BUFFER and spec.persistent
            )
            (state if lifted else other)[spec.target] = tensors[spec.target]
    return state, other


def output_names(graph: fx.Graph) -> list[str]:
    output = next(n for n in graph.nodes if n.op == "output")
    return [getattr(n, "name", "") for n in output.args[0]]


Applies = Callable[[TorchCarrier, EditScript], TorchCarrier]
Anything = Any
