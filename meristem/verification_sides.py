"""What verification asks of a model, for each carrier: inputs, float64, deployment, gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.rewrite.interpret import Native
from meristem.rewrite.plan import Plan
from meristem.verify import memory
from meristem.verify.inputs import Sample, draw, traced_sizes
from meristem.verify.numeric import Interface
from meristem.verify.programs import Program
from meristem.verify.recipes import Recipes
from meristem.verify.report import Verdict
from meristem.verify.signature import Field, fields
from meristem.verify.sources import fitted
from meristem.verify.stepwise import stepwise

if TYPE_CHECKING:
    from meristem.verify.programs import TorchModule

_MANY = 1 << 30  # a size without a bound


class Subject(Protocol):
    """A model under verification."""

    model: Model
    trains: bool

    def fields(self) -> list[Field]: ...

    def ranges(self) -> dict[str, tuple[int, int]]: ...

    def example(self) -> Sample | None: ...

    def sample(self, given: Any, label: str) -> Sample: ...

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def sizes(self) -> dict[str, tuple[int, ...]]: ...

    def names(self) -> list[tuple[str, ...]]: ...

    def read(self, name: str) -> Array: ...

    def source(self, name: str) -> str: ...

    def stored(self) -> Iterator[tuple[str, Array, str]]: ...

    def oriented(self, name: str, array: Array) -> Array: ...

    def stored_constants(self, script: EditScript) -> dict[str, Array]: ...

    def dtypes(self) -> list[str]: ...

    def evaluates(self) -> bool: ...

    def obstacle(self) -> str: ...

    def opaque(self) -> str: ...

    def native(self) -> Native | None: ...

    def double(
        self, recipes: Recipes | None = None, script: EditScript | None = None
    ) -> Program: ...

    def onnx(self, path: Path) -> Path: ...

    def module(self, dtype: str | None, device: str) -> Program: ...

    def program(self, dtype: str | None, device: str) -> Any: ...

    def training(
        self,
        old: Any,
        samples: Sequence[Sample],
        recipes: Recipes,
        plan: Plan,
        script: EditScript,
    ) -> Verdict: ...


def subject(model: Model) -> Subject:
    """The model as its carrier lets it be verified."""
    if model.side.name == "torch":
        return TorchSubject(model)
    from meristem.verification_onnx import OnnxSubject

    return OnnxSubject(model)


class Base(ABC):
    def __init__(self, model: Model) -> None:
        self.model = model
        self.carrier: Any = model.carrier
        self._fields: list[Field] | None = None
        self._double: Program | None = None

    def fields(self) -> list[Field]:
        """The inputs that the caller gives."""
        if self._fields is None:
            self._fields = fields(self.model.graph, self.examples())
            cached = stepwise(self.model.graph, self._fields)
            if cached is not None:
                self._fields = cached.tied()
        return self._fields

    def examples(self) -> dict[str, Array]:
        return {}

    def example(self) -> Sample | None:
        """The inputs that the model was traced with."""
        found = self.examples()
        if not found or set(found) != {f.name for f in self.fields()}:
            return None
        return self.sample(found, "the example inputs")

    def sample(self, given: Any, label: str) -> Sample:
        """Inputs that a caller gives: a dict by name, or a sequence in order.

        Raises CarrierError where names are not the model's, or something does not fit.
        """
        wanted = self.fields()
        names = [f.name for f in wanted]
        if isinstance(given, dict):
            odd = [repr(n) for n in given if n not in names]
            short = [n for n in names if n not in given]
            if odd or short:
                said = f"no input {', '.join(odd)}" if odd else f"{', '.join(short)} besides"
                raise CarrierError(
                    f"{label}: the model takes {said}: its inputs are {', '.join(names)}; give a dict by "
                    "these names, or a tuple in their order"
                )
        else:
            leaves = list(_tensors(given))
            if len(leaves) != len(wanted):
                raise CarrierError(
                    f"{label} holds {len(leaves)} tensors, the model takes {len(wanted)}: "
                    f"{', '.join(names)}; give a dict by these names",
                )
            given = dict(zip(names, leaves, strict=True))
        arrays: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for f in wanted:
            arrays[f.name] = fitted(_array(given[f.name]), f, sizes, label)
        return Sample(label, arrays, sizes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of every weight of the view."""
        return {n: w.shape for w in self.model.graph.weights for n in w.names}

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of everything that is stored."""
        graph = self.model.graph
        return {n: tuple(w.shape) for w in (*graph.weights, *graph.unused) for n in w.names}

    def names(self) -> list[tuple[str, ...]]:
        """Names that stand for one weight, together."""
        return [w.names for w in self.model.graph.weights]

    def oriented(self, name: str, array: Array) -> Array:
        return array

    def evaluates(self) -> bool:
        """Can the model be evaluated in float64 here?"""
        return not self.obstacle()

    def obstacle(self) -> str:
        """What is in the way of that, in words: an operator without semantics, or memory."""
        needed = memory.total([memory.WIDE * memory.numbers(self.model.graph)])
        return self.opaque() or memory.lacking(
            needed, "a copy of the model in float64", "compare on a larger machine"
        )

    @abstractmethod
    def opaque(self) -> str:
        """The first operator that has no semantics, in words."""

    def native(self) -> Native | None:
        """What computes operators without semantics in float64; None where nothing does."""
        return None

    def dtypes(self) -> list[str]:
        """Float types of weights and outputs."""
        graph = self.model.graph
        values = [*graph.weights, *(v for _, v in graph.outputs)]
        return sorted({v.dtype for v in values if v.is_float})


def _tensors(x: Any) -> Iterator[Any]:
    """Tensors and arrays inside of tuples, lists and dicts, in order."""
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (tuple, list)):
        for v in x:
            yield from _tensors(v)
    elif hasattr(x, "shape"):
        yield x


def _array(x: Any) -> Array:
    """A tensor of torch or an array, as numpy."""
    if hasattr(x, "detach"):
        from meristem.verify.programs import to_numpy

        return to_numpy(x)
    return np.asarray(x)


class TorchSubject(Base):
    """A traced module or program."""

    trains = True

    def examples(self) -> dict[str, Array]:
        import torch
        from torch.utils import _pytree as pytree

        given = self.carrier.program.example_inputs
        if given is None:
            return {}
        leaves = [x for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
        nodes = self.carrier.user_inputs()
        if len(nodes) != len(leaves):
            return {}
        return {n.name: _array(x) for n, x in zip(nodes, leaves, strict=True)}

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Bounds of dynamic sizes; what has no upper one is left at a large number."""
        bounds = self.carrier.program.range_constraints.items()
        return {
            str(name): (int(b.lower), int(b.upper) if bool(b.upper < _MANY) else _MANY)
            for name, b in bounds
        }

    def read(self, name: str) -> Array:
        """A stored tensor by any of its names; KeyError where there is none."""
        tensors = {**self.carrier.unused, **self.carrier.tensors}
        return _array(tensors[name])

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of everything that is stored, constants too."""
        tensors = {**self.carrier.unused, **self.carrier.tensors}
        return super().sizes() | {n: tuple(t.shape) for n, t in tensors.items()}

    def source(self, name: str) -> str:
        """The name under which ``read`` finds a tensor; KeyError where there is none."""
        if name not in self.carrier.unused and name not in self.carrier.tensors:
            raise KeyError(name)
        return name

    def stored(self) -> Iterator[tuple[str, Array, str]]:
        from meristem.carriers.aten_values import dtype_name

        for name, t in {**self.carrier.unused, **self.carrier.tensors}.items():
            yield name, _array(t), dtype_name(t.dtype)

    def stored_constants(self, script: EditScript) -> dict[str, Array]:
        """Constant tensors that the plan rewrites, by name."""
        names = {n.name: name for n, name, _, _ in self.carrier.stored()}
        return {
            names[e.slot.native.name]: np.asarray(e.data)
            for e in script.literals
            if e.slot.role == ("constant",)
        } | {
            names[e.slot.native.name]: np.full(1, e.new)
            for e in script.sizes
            if e.slot.role == ("constant",)
        }

    def native(self) -> Native:
        from meristem.carriers.torch_watch import compute

        return compute

    def opaque(self) -> str:
        return ""

    def double(self, recipes: Recipes | None = None, script: EditScript | None = None) -> Program:
        """The program in float64 with its stored weights, or with those that recipes give."""
        from meristem.verify.programs import TorchDouble, torch_tensors

        if recipes is not None:
            shapes = {n: tuple(t.shape) for n, t in self.carrier.tensors.items()}
            wide = torch_tensors(self.carrier, lambda n: recipes.wide(n, shapes[n]))
            return TorchDouble(self.carrier, wide)
        if self._double is None:
            self._double = TorchDouble(self.carrier)
        return self._double

    def onnx(self, path: Path) -> Path:
        """The module's export at ``path``."""
        return self.model.save(path)

    def module(self, dtype: str | None, device: str) -> TorchModule:
        """The trainable module, or a copy of the program in another type."""
        from meristem.verify.programs import TorchModule, narrow

        if dtype is None:
            return TorchModule(self.carrier, self.model.module(), device)
        return narrow(self.carrier, dtype, device)

    def program(self, dtype: str | None, device: str) -> Any:
        """The exported program, or that of a copy; both are called as ``module`` is."""
        from meristem.verify.programs import exported, moved

        if dtype is None:
            return moved(self.model.exported_program, device)
        return moved(exported(self.module(dtype, "cpu"), self.traced(), self.fields()), device)

    def traced(self) -> Sample:
        """Inputs of the sizes that the model was traced with."""
        found = self.fields()
        return self.example() or draw(found, traced_sizes(found), "random")

    def training(
        self,
        old: Any,
        samples: Sequence[Sample],
        recipes: Recipes,
        plan: Plan,
        script: EditScript,
    ) -> Verdict:
        """Level 3, on fresh programs whose weights are leaves."""
        from meristem.verify.gradients import training
        from meristem.verify.programs import TorchDouble, TorchModule

        indexed: dict[str, set[int]] = {}
        for w in old.model.graph.weights:
            axes = {op.attrs["axis"] for op, i in w.uses if op.kind == "take" and i == 0}
            indexed |= {n: axes for n in w.names if axes}
        grown: Any = self.double(recipes)
        return training(
            TorchDouble(old.carrier), grown, samples, Interface(script.interface), recipes, indexed=indexed,
            locked=plan.locked, saddles=plan.saddles, cropped=script.boundary,
            module=TorchModule(self.carrier, self.model.module()), preserves=not plan.approximate,
        )  # fmt: skip


__all__ = ["Base", "Subject", "subject"]
