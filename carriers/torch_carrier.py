"""The torch carrier: a functional ExportedProgram, its weights by storage, what eval mode hides."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

# Key of a node's ``custom`` metadata, which files and decompositions keep: its dropout probability.
MARK = "meristem_dropout_p"


@dataclass
class TorchCarrier:
    """``program`` after ``run_decompositions({})`` and its facts.

    ``dropouts`` maps node names to probabilities (identity nodes and attentions); ``lost`` lists what a
    loaded program no longer says. ``tensors`` are all stored tensors by name, tied names sharing one.
    """

    program: ExportedProgram
    dropouts: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    normalisations: list[str] = field(default_factory=list)
    unused: dict[str, torch.Tensor] = field(default_factory=dict)
    gates: frozenset[str] = frozenset()

    @property
    def graph(self) -> fx.Graph:
        return self.program.graph

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters, buffers and constants by fully qualified name."""
        return {
            **self.program.state_dict,
            **{k: v for k, v in self.program.constants.items() if isinstance(v, torch.Tensor)},
        }

    def placeholders(self) -> Iterator[tuple[fx.Node, Any]]:
        """Placeholder nodes with their input specs."""
        nodes = [n for n in self.graph.nodes if n.op == "placeholder"]
        yield from zip(nodes, self.program.graph_signature.input_specs, strict=True)

    def stored(self) -> Iterator[tuple[fx.Node, str, str, torch.Tensor]]:
        """(placeholder, name, role, tensor) of every stored input."""
        roles = {
            InputKind.PARAMETER: "parameter",
            InputKind.BUFFER: "buffer",
            InputKind.CONSTANT_TENSOR: "constant",
        }
        tensors = self.tensors
        for node, spec in self.placeholders():
            if spec.kind in roles and spec.target in tensors:
                yield node, spec.target, roles[spec.kind], tensors[spec.target]

    def user_inputs(self) -> list[fx.Node]:
        """Placeholders that the caller gives, tensors only."""
        return [
            n
            for n, spec in self.placeholders()
            if spec.kind is InputKind.USER_INPUT and isinstance(n.meta.get("val"), torch.Tensor)
        ]


def copied(program: ExportedProgram) -> fx.GraphModule:
    """A deep copy of the program's module whose nodes keep their names.

    fx renames what is called like a Python builtin (``input``) when it copies a graph, and the
    signature knows the old name.
    """
    module = copy.deepcopy(program.graph_module)
    for old, new in zip(program.graph.nodes, module.graph.nodes, strict=True):
        new.name = old.name
    return module


def storage_key(t: torch.Tensor) -> tuple[Any, ...]:
    """Two names with the same key are one weight."""
    if t.device.type == "meta" or t.numel() == 0:
        return (id(t),)
    return (t.data_ptr(), tuple(t.shape), tuple(t.stride()), t.dtype)
