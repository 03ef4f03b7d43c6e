"""Model: a carrier with its view, its dimensions, and what the last growth did."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meristem.rewrite.dimensions import Dimension, find_dimensions
from meristem.rewrite.equations import Equations
from meristem.rewrite.errors import CarrierError, SizeError
from meristem.rewrite.graph import Graph
from meristem.rewrite.plan import Plan

if TYPE_CHECKING:
    from meristem.carrying import Origin
    from meristem.rewrite.deeper import Site
    from meristem.rewrite.grids import Images
    from meristem.rewrite.stacks import Stack
    from meristem.sides import Side


class Model:
    """A traced or loaded model. It is never changed; growing gives a new one.

    ``plan`` is what the growth that made it did, or None; ``others`` are the models that were fused with
    its source, ``source`` is what masked growth started from, ``origin`` what it remembers of the model
    that grew. From torch every output exists; from ONNX ``save``, ``state_dict``, ``onnx_model`` and
    ``onnx_proto`` do.
    """

    def __init__(
        self,
        carrier: Any,
        side: Side,
        plan: Plan | None = None,
        others: tuple[Model, ...] = (),
        source: Model | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.carrier = carrier
        self.side = side
        self.plan = plan
        self.others = others
        self.source = source
        self.origin = origin
        self._module: weakref.ref[Any] | None = None

    @cached_property
    def graph(self) -> Graph:
        """The view that analysis works on."""
        return self.side.view(self.carrier)

    @cached_property
    def equations(self) -> Equations:
        """The solved axes of the view."""
        return Equations(self.graph).solve()

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """Stacks of repeated blocks by the name of their ``layers`` dimension."""
        from meristem.rewrite.stacks import find_stacks

        return {s.name: s for s in find_stacks(self.graph, self.equations)}

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Layers behind which method="net2deeper" puts others, by the names of their dimensions."""
        from meristem.rewrite.deeper import find_sites

        return {s.name: s for s in find_sites(self.graph)}

    @cached_property
    def images(self) -> Images:
        """Images that the model reads in patches, which method="interpolate" makes larger."""
        from meristem.rewrite.grids import find_images

        return find_images(self.graph)

    @cached_property
    def dimensions(self) -> list[Dimension]:
        """Everything that can grow, and what pins the rest."""
        widths = find_dimensions(self.graph, self.equations)
        shapes = {w.name: len(w.shape) for w in self.graph.weights}
        layers = [
            Dimension(
                name,
                "layers",
                s.size,
                s.place,
                tuple((w, a) for w in s.weights for a in range(shapes.get(w, 0))[:1]),
            )
            for name, s in self.stacks.items()
        ]
        return [*widths, *layers]

    def __getitem__(self, name: str) -> Dimension:
        """A dimension by its full name."""
        for d in self.dimensions:
            if d.name == name:
                return d
        raise KeyError(name)

    @property
    def parameters(self) -> int:
        """Number of stored weights' elements, tied ones once."""
        total = 0
        for w in self.graph.weights:
            n = 1
            for s in w.shape:
                n *= s
            total += n
        return total

    def __str__(self) -> str:
        from meristem.tables import dimension_text

        return dimension_text(self)

    def __repr__(self) -> str:
        return f"<meristem.Model from {self.side.name}: {self.parameters:,} parameters>"

    def _repr_html_(self) -> str:
        """The model in a notebook: what can grow, and what pins the rest."""
        from meristem.rewrite.notebook import box, line, table
        from meristem.tables import rows

        found = rows(self.dimensions)
        free = [
            (kind, place, size, weights) for kind, place, size, weights, why in found if not why
        ]
        pinned = [(kind, place, size, why) for kind, place, size, _, why in found if why]
        parts = [line(f"{self.parameters:,} parameters, from {self.side.name}", muted=True)]
        if free:
            parts.append(table("can grow", ("kind", "place", ">size", ">weights"), free))
        if pinned:
            parts.append(table("pinned", ("kind", "place", ">size", "because"), pinned))
        return box("Model", *parts)

    def module(self) -> Any:
        """A trainable nn.Module with the original parameter names, in eval mode.

        Each call gives a module of its own tensors: training it changes neither the model nor the
        module that was traced.
        """
        module = self.side.module(self.carrier)
        self._module = weakref.ref(module)
        return module

    @property
    def last_module(self) -> Any:
        """What ``module()`` gave last, if someone keeps it, else None."""
        return self._module() if self._module is not None else None

    def optimizer(
        self, old: Any, *, new: str = "mean", module: Any = None, source: Any = None
    ) -> Any:
        """An optimizer that goes on where ``old``, that of the model that grew, stopped.

        It has the same class, groups and hyper-parameters, over the parameters of ``module`` (default:
        what ``module()`` gave last). State follows each weight's recipe: moments of old entries with the
        factors of their gradients, step counts as they are. Entries without a past have a first moment of
        zero; ``new`` says what their second moment is: "mean" of the old entries that they extend, "zero",
        or "asymmetric", where replicas begin at zero too (docs/training/optimizer.md). ``source`` is the
        module that ``old`` optimises, where it is not the one that was traced. Nothing of ``old`` changes.

        Raises MeristemError where ``old`` does not belong to the model, its class or something of its state
        is not known, or a state has another shape than its weight.
        """
        from meristem.carrying import optimizer

        return optimizer(self, old, module, source, new)

    def optimizer_state(
        self, state: Mapping[str, Any], kind: type, *, new: str = "mean"
    ) -> dict[str, Any]:
        """The same for the state of an optimizer of the class ``kind`` by names, which
        ``torch.distributed.checkpoint.state_dict`` gives with full_state_dict=True."""
        from meristem.carrying import optimizer_state

        return optimizer_state(self, state, kind, new)

    def carry(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Other weights of the source's names (an average of the run, say) through this growth: a state
        dict of the grown module. Raises MeristemError where they do not fit."""
        from meristem.carrying import carry

        return carry(self, weights)

    @property
    def exported_program(self) -> Any:
        """A verified torch.export.ExportedProgram."""
        return self.side.program(self.carrier)

    @property
    def onnx_model(self) -> Any:
        """An onnx_ir.Model, whose grown weights are computed when they are read; from torch by torch.onnx's
        exporter."""
        return self.side.onnx_model(self.carrier)

    @property
    def onnx_proto(self) -> Any:
        """The same as an onnx.ModelProto with every weight inside. Raises OutputError above 2 GB."""
        with in_memory(self):
            return self.side.onnx_proto(self.carrier)

    def state_dict(self) -> dict[str, Any]:
        """Tensors by their original names; numpy arrays from ONNX."""
        return self.side.state_dict(self.carrier)

    def anneal(self, t: float, weights: Mapping[str, Any] | None = None) -> Model:
        """The model of masked growth with its masks at ``t``, from 0 to 1.

        ``weights`` is the state dict of a module that was trained meanwhile (``module()``, whose buffer
        ``growth_mask`` is the mask); without it they are those of the growth. At 1 the masks are folded
        away, and the program is the plain larger one. Raises MeristemError where this is no masked growth.
        """
        from meristem.method_masked import anneal

        return anneal(self, t, weights)

    def save(self, path: str | Path) -> Path:
        """Write ``.onnx``, ``.pt2`` or ``.safetensors``; nothing is left behind on failure."""
        path = Path(path)
        with in_memory(path):  # large weights are made while they are written
            self.side.save(self.carrier, path)
        return path

    def report(
        self, path: str | Path, *, before: Model | None = None, verification: Any = None
    ) -> Path:
        """Write a page about the model: its blocks, its dimensions, and its growth with the proof.

        ``before`` is the model that grew (then parameters and FLOPs are compared), ``verification`` what
        ``meristem.verify`` gave for both. One .html file that needs nothing besides; one that is there is
        replaced. docs/report.md shows one. Raises OutputError where it cannot be written.
        """
        from meristem.reporting import write_page

        return write_page(self, path, before=before, verification=verification)


def check_model(model: Any) -> None:
    """Raises CarrierError where what shall grow is no Model."""
    if not isinstance(model, Model):
        raise CarrierError(
            f"what grows is a meristem.Model, not {type(model).__name__}; meristem.trace(module, args) "
            "makes one of a module, meristem.load(path) of a file or a program"
        )


@contextmanager
def in_memory(what: Any) -> Iterator[None]:
    """What is too large to be made is the request's fault."""
    try:
        yield
    except MemoryError as error:
        raise SizeError(
            f"the grown model does not fit into memory ({error}); ask for smaller sizes",
            request=what,
        ) from error
