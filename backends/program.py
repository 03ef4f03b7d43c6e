"""Applying an edit script to a torch carrier: a new, verified ExportedProgram."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from meristem.backends.torch_edits import GraphEditor
from meristem.carriers.torch_carrier import TorchCarrier, copied, storage_key
from meristem.carriers.torch_ranges import widened
from meristem.carriers.torch_shapes import fake_like, fake_mode_of, propagate
from meristem.rewrite.edits import BoundaryEdit, EditScript, WeightEdit
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.rewrite.made import Copy, Made
from meristem.rewrite.masks import NAME
from meristem.rewrite.resizing import linear, resized


def apply_script(carrier: TorchCarrier, script: EditScript) -> TorchCarrier:
    """A new carrier with every edit applied; nothing is shared with the source."""
    module = copied(carrier.program)
    editor = GraphEditor(module.graph)
    tensors = grown_tensors(carrier, script)
    for literal in script.literals:
        editor.literal(literal, tensors, carrier)
    for size in script.sizes:
        editor.size(size, tensors, carrier)
    signature, g = _add_mask(carrier, editor, script, tensors)
    for norm in script.statistics:
        editor.statistics(norm, g)
    for m in script.masks:
        places = [n.name for n, name, _, _ in carrier.stored() if name in m.weight.names]
        editor.mask(m, places, g)
    for edge in script.boundary:
        editor.boundary(edge, [s.arg.name for s in carrier.program.graph_signature.output_specs])
    grown = [e for e in script.interface if not e.output]
    for edge in grown:
        node = next(n for n in module.graph.nodes if n.op == "placeholder" and n.name == edge.name)
        sizes = list(node.meta["val"].shape)
        sizes[edge.axis] = edge.size
        node.meta["val"] = node.meta["val"].new_empty(sizes)
    example = _grown_example(carrier, grown)
    out = rebuild(carrier, module, tensors, signature, example=example)
    if signature is not None:
        out.unused = unused_tensors(carrier, tensors)
    return out


def _add_mask(
    carrier: TorchCarrier, editor: GraphEditor, script: EditScript, tensors: dict[str, torch.Tensor]
) -> tuple[ExportGraphSignature | None, fx.Node | None]:
    """The mask as a buffer, and the signature that names it; nothing where nothing is masked."""
    if not (script.masks or (script.mask is not None and script.statistics)):
        return None, None
    signature = copy.deepcopy(carrier.program.graph_signature)
    specs = signature.input_specs
    stored = (InputKind.PARAMETER, InputKind.BUFFER)
    at = 1 + max(i for i, s in enumerate(specs) if s.kind in stored)
    before = [n for n in editor.graph.nodes if n.op == "placeholder"][at - 1]
    with editor.graph.inserting_after(before):
        node = editor.graph.placeholder(f"b_{NAME}")
    node.target = node.name
    like_ = next(t for t in tensors.values() if t.is_floating_point())
    tensors[NAME] = torch.full((), script.mask, dtype=torch.float32, device=like_.device)
    mode = fake_mode_of(carrier.program.graph)
    node.meta["val"] = fake_like(mode, tensors[NAME], parameter=False)
    specs.insert(at, InputSpec(InputKind.BUFFER, TensorArgument(node.name), NAME, True))
    return signature, node


def _grown_example(carrier: TorchCarrier, edges: Sequence[BoundaryEdit]) -> Any:
    """The example inputs with zeros at new coordinates, images interpolated."""
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
        if edge.resized:
            by = linear(leaves[i].shape[edge.axis], edge.size)
            image = resized(leaves[i].detach().cpu().double().numpy(), edge.axis, by)
            leaves[i] = torch.from_numpy(image).to(leaves[i])
            continue
        shape = list(leaves[i].shape)
        shape[edge.axis] = edge.size
        old = torch.as_tensor(edge.old, device=leaves[i].device)
        leaves[i] = leaves[i].new_zeros(shape).index_copy(edge.axis, old, leaves[i])
    return pytree.tree_unflatten(leaves, spec)


def grown_tensors(carrier: TorchCarrier, script: EditScript) -> dict[str, torch.Tensor]:
    """All stored tensors by name after growth; tied names share one tensor, as before."""
    edits = {name: e for e in script.weights for name in e.weight.names}
    return lift_tensors(carrier.tensors, edits)


def lift_tensors(
    tensors: dict[str, torch.Tensor], edits: Mapping[str, WeightEdit]
) -> dict[str, torch.Tensor]:
    """Apply edits by name to tensors; copies of the others. Identity of tied tensors is kept."""
    done: dict[tuple[int, str], torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, old in tensors.items():
        edit = edits.get(name)
        key = (
            id(old) if old.numel() == 0 else old.data_ptr(),
            edit.expansion.name if edit else str(old.shape),
        )
        if key not in done:
            done[key] = like(old, _evaluated(old, edit.make) if edit else old.detach().clone())
        out[name] = done[key]
    return out


def made_tensor(old: torch.Tensor, made: Made) -> torch.Tensor:
    """A tensor of a new layer from its source's, in its own dtype."""
    return old.detach().clone() if isinstance(made, Copy) else _evaluated(old, made.apply)


def _evaluated(old: torch.Tensor, make: Callable[[Array], Array]) -> torch.Tensor:
    """What a recipe makes of a stored tensor, in its own dtype."""
    wide = old.detach().cpu()
    array = wide.float().numpy() if wide.dtype == torch.bfloat16 else wide.numpy()
    return torch.from_numpy(np.ascontiguousarray(make(array))).to(old.dtype).to(old.device)


def like(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A Parameter where the source was one, in the memory format of the source."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    order = formats.get(old.dim())
    if order is not None and new.dim() == old.dim() and not old.is_contiguous():
        new = new.contiguous(memory_format=order) if old.is_contiguous(memory_format=order) else new
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
