"""The ONNX carrier: a model whose weights stay in its file, and the facts that analysis needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from meristem.carriers.onnx_values import is_float, size_of

# Sizes that stand for dynamic axes: primes, so that products of them and of weights cannot
# coincide.
_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
_SPATIAL = (64, 96, 128, 160)


@dataclass(frozen=True)
class Storage:
    """Where a weight of the view lives: an initialiser (or the result of a Constant node) by name.

    ``use`` is the one input (node, position) that this weight stands for, where the file shares a
    small tensor between uses that are not tied; None where all uses are meant. ``twins`` are
    further initialisers that hold the same numbers, with whether they are transposed.
    """

    name: str
    use: tuple[ir.Node, int] | None = None
    twins: tuple[tuple[str, bool], ...] = ()


@dataclass
class OnnxCarrier:
    """A normalised ``onnx_ir.Model`` and the facts that the view and the backend share.

    ``shared`` are initialisers that stay one weight for all their uses; every other one that is
    used several times counts as one weight for each use. ``ties`` maps an initialiser that repeats
    another one to (its name, transposed). Nothing in the model is changed for either.
    """

    model: ir.Model
    path: Path | None = None
    shared: frozenset[str] = frozenset()
    ties: dict[str, tuple[str, bool]] = field(default_factory=dict)
    normalisations: list[str] = field(default_factory=list)
    external: bool = False
    reads: frozenset[Path] = frozenset()
    """Files that weights are read from until they are saved."""
    listed: frozenset[str] | None = None
    """Initialisers that the file's value_info lists (it need not); None where nothing is known."""

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    def version(self, domain: str = "") -> int:
        """The opset version of a domain."""
        imports = self.model.opset_imports
        found = imports.get(domain)
        if found is None and domain == "":
            found = imports.get("ai.onnx")
        return int(found or 1)

    def inputs(self) -> Iterator[ir.Value]:
        """What the caller gives: graph inputs that are not initialisers as well."""
        for v in self.graph.inputs:
            if v.name not in self.graph.initializers:
                yield v

    def dynamic(self) -> dict[str, list[tuple[str, int]]]:
        """Symbols of dynamic axes -> (input, axis) where they occur."""
        out: dict[str, list[tuple[str, int]]] = {}
        for v in self.inputs():
            for axis, dim in enumerate(v.shape or ()):
                if not isinstance(dim, int):
                    out.setdefault(symbol(v, axis), []).append((str(v.name), axis))
        return out

    def hints(self, given: Mapping[str, int] | None = None) -> dict[str, int]:
        """A size for every dynamic axis: the given one, or a prime that divides no weight's axis.

        First axes share one size whatever their symbols: exporters name the batch of every input
        anew. So do the later axes of float inputs that differ in symbols alone (the past of every
        layer's keys and values).
        """
        given = dict(given or {})
        sizes = {int(n) for v in self.graph.initializers.values() for n in _sizes(v) if int(n) > 1}
        primes = [p for p in _PRIMES if not any(n % p == 0 for n in sizes)] + list(_PRIMES)
        spatial, alike = list(_SPATIAL), dict[tuple[Any, ...], int]()
        out = dict(given)
        floats = {str(v.name): v for v in self.inputs() if is_float(v.dtype)}
        batch = primes.pop(0)
        for name, places in self.dynamic().items():
            if name in out:
                continue
            first, axis = places[0]
            text = size_of(name, out)
            if text is not None and not name.isidentifier():
                out[name] = text  # an expression of other symbols
            elif axis == 0:
                out[name] = batch
            elif first in floats and axis >= 2 and len(floats[first].shape or ()) >= 4 and spatial:
                shape = tuple(n if isinstance(n, int) else None for n in floats[first].shape or ())
                if (shape, axis) not in alike:
                    alike[shape, axis] = spatial.pop(0)
                out[name] = alike[shape, axis]
            else:
                out[name] = primes.pop(0)
        return out

    def input_shapes(self, hints: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Concrete sizes of every input."""
        return {
            str(v.name): tuple(
                dim if isinstance(dim, int) else hints[symbol(v, axis)]
                for axis, dim in enumerate(v.shape or ())
            )
            for v in self.inputs()
        }

    def note(self, text: str) -> None:
        """Report a normalisation, once."""
        if text not in self.normalisations:
            self.normalisations.append(text)

    def __repr__(self) -> str:
        count = self.graph.num_nodes()
        return f"OnnxCarrier({self.path or self.graph.name}, {count} nodes, opset {self.version()})"


def symbol(value: ir.Value, axis: int) -> str:
    """The name of a dynamic axis; ``input.axis`` where the file gives none."""
    assert value.shape is not None
    dim: Any = value.shape[axis]
    text = getattr(dim, "value", None)
    return str(text) if text else f"{value.name}.{axis}"


def _sizes(value: ir.Value) -> tuple[Any, ...]:
    tensor = value.const_value
    return tuple(tensor.shape) if tensor is not None else ()
