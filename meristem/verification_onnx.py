"""An ONNX model under verification: its view evaluated in float64, its file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import OutputError
from meristem.rewrite.graph import Array, Literal, Weight
from meristem.rewrite.plan import Plan
from meristem.verification_sides import Base
from meristem.verify.inputs import Sample
from meristem.verify.programs import Program
from meristem.verify.recipes import Recipes
from meristem.verify.report import Verdict, not_checked

_FILE = 'a model that came from ONNX runs in runtime="onnxruntime" or "onnx.reference"'


class OnnxSubject(Base):
    """An ONNX file, or a model in memory."""

    trains = False

    def ranges(self) -> dict[str, tuple[int, int]]:
        return {}

    def _weights(self) -> dict[str, Weight]:
        graph = self.model.graph
        return {w.name: w for w in (*graph.weights, *graph.unused)}

    def _twins(self) -> dict[str, tuple[str, bool]]:
        """Initialisers that repeat another one: (its weight, transposed)."""
        known = self._weights()
        return {n: (p, t) for n, (p, t) in self.carrier.ties.items() if p in known}

    def read(self, name: str) -> Array:
        """A weight of the view by name; KeyError where there is none."""
        return self._weights()[self.source(name)].array()

    def source(self, name: str) -> str:
        """The weight of the view that a name stands for; KeyError where there is none."""
        twins = self._twins()
        found = twins[name][0] if name in twins else name
        if found not in self._weights():
            raise KeyError(name)
        return found

    def stored(self) -> Iterator[tuple[str, Array, str]]:
        from meristem.carriers.onnx_values import read

        for w in self._weights().values():
            yield w.name, w.array(), w.dtype
        for name, (primary, _) in self._twins().items():
            data = read(self.carrier.graph.initializers[name].const_value)
            yield name, data, self._weights()[primary].dtype

    def oriented(self, name: str, array: Array) -> Array:
        """A twin may be stored the other way round."""
        twin = self._twins().get(name)
        return array.T if twin is not None and twin[1] else array

    def stored_constants(self, script: EditScript) -> dict[str, Array]:
        return {}

    def opaque(self) -> str:
        """The first operator that has no semantics, in words."""
        opaque = [op for op in self.model.graph.ops if op.kind == "opaque"]
        return f"{opaque[0].where} has no semantics" if opaque else ""

    def double(self, recipes: Recipes | None = None, script: EditScript | None = None) -> Program:
        """The view in float64; constants that float32 attributes round are those of the plan."""
        from meristem.frontends.onnx_view import view_onnx
        from meristem.verify.programs import ViewDouble

        if recipes is None:
            if self._double is None:
                self._double = ViewDouble(lambda hints: view_onnx(self.carrier, hints))
            return self._double
        given = recipes
        exact = {_address(e.slot): np.asarray(e.data) for e in script.literals} if script else {}

        def view(hints: Any) -> Any:
            graph = view_onnx(self.carrier, hints)
            for literal in graph.literals:
                _unround(literal, exact)
            return graph

        return ViewDouble(view, lambda w: given.wide(w.name, w.shape))

    def onnx(self, path: Path) -> Path:
        """The file that the model was loaded from, which is what people deploy; else one at ``path``."""
        own = self.carrier.path  # what edits a model forgets it
        if own is not None and Path(own).is_file():
            return Path(own)
        return self.model.save(path)

    def module(self, dtype: str | None, device: str) -> Program:
        raise OutputError(_FILE)

    def program(self, dtype: str | None, device: str) -> Any:
        raise OutputError(_FILE)

    def training(
        self,
        old: Any,
        samples: Sequence[Sample],
        recipes: Recipes,
        plan: Plan,
        script: EditScript,
    ) -> Verdict:
        return not_checked("an ONNX file has no gradients")


def _address(slot: Any) -> tuple[Any, ...]:
    """A slot by what survives an edit: the name of the node's first result."""
    role = tuple(slot.role) if isinstance(slot.role, (list, tuple)) else (slot.role,)
    return (str(slot.native.outputs[0].name), *role)


def _unround(literal: Literal, exact: dict[tuple[Any, ...], Array]) -> None:
    """A constant that is the plan's number rounded to float32 becomes the plan's number."""
    if literal.slot is None or not literal.is_float:
        return
    planned = exact.get(_address(literal.slot))
    if planned is not None and planned.shape == literal.data.shape:
        close = np.abs(planned - literal.data) <= 2.0**-23 * np.abs(planned)
        literal.data = np.where(close, planned, literal.data)


__all__ = ["OnnxSubject"]
