"""A plan with what carries it out on one model: the carrier after width, after mixtures, and the depth
script."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meristem.method_depth import depth_hooks
from meristem.mixtures import upcycling
from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.methods import method
from meristem.rewrite.numbering import within
from meristem.rewrite.plan import Plan
from meristem.rewrite.planner import Solution


@dataclass
class Prepared:
    """A plan with what carries it out on one model, and the proof of what grows in width."""

    model: Model
    plan: Plan
    script: EditScript | None
    layers: dict[str, int]
    experts: dict[str, int] = field(default_factory=dict)
    solution: Solution | None = None

    @property
    def passed(self) -> list[Model]:
        """The models between several growths."""
        return []

    @property
    def masked(self) -> bool:
        """Can the growth be carried further by moving a mask?"""
        return self.script is not None and self.script.mask is not None

    @cached_property
    def widened(self) -> Any:
        """The carrier after width, which shares nothing with the source."""
        return self.model.side.widen(self.model.carrier, self.script or EditScript())

    @cached_property
    def mixed(self) -> Any:
        """The carrier after width and upcycling."""
        script = self.upcycling
        return self.widened if script is None else self.model.side.upcycle(self.widened, script)

    @cached_property
    def carrier(self) -> Any:
        """The carrier after everything."""
        return self.mixed if self.depth is None else self.model.side.deepen(self.mixed, self.depth)

    @cached_property
    def upcycling(self) -> Any:
        """The script of new mixtures on the widened carrier; None without them."""
        return upcycling(Model(self.widened, self.model.side), self) if self.experts else None

    @cached_property
    def wide(self) -> Model:
        """The model after width."""
        return Model(self.widened, self.model.side)

    @property
    def places(self) -> dict[str, Any]:
        """Sites of the model after width (``rewrite.deeper``) by their names before.

        Raises NotPreserved where width puts something between a layer and its activation.
        """
        before, after = list(self.model.sites), list(self.wide.sites.values())
        if len(before) != len(after):
            raise NotPreserved(
                "growth in width puts operators (masks) between a layer and its activation, so that no "
                "layer can be put behind it; grow layers in a step of their own, before",
                reason="masks before an activation",
            )
        return dict(zip(before, after, strict=True))

    @cached_property
    def depth(self) -> Any:
        """The depth script on the widened carrier; None without new layers."""
        if not self.layers:
            return None
        return depth_hooks(method(self.plan.method)).script(self, self.wide)

    def targets(self, wide: Model) -> dict[Any, int]:
        """New sizes of the stacks of the model after width."""
        # Widening adds operators without paths to files that have no others, so names are not asked.
        twins = dict(zip(self.model.stacks, wide.stacks.values(), strict=True))
        return {twins[name]: n for name, n in self.layers.items()}

    @property
    def moves(self) -> dict[str, str]:
        """Stored names that new layers push on: new name -> old name."""
        pairs = ((self.depth.moved(name), name) for name in self._names)
        return {new: old for new, old in pairs if new != old}

    @property
    def _names(self) -> list[str]:
        """Every stored name of the source."""
        graph = self.model.graph
        names = [n for w in (*graph.weights, *graph.unused) for n in w.names]
        # Small constants are no weights of the view, but a torch program stores them by name.
        return list(dict.fromkeys([*names, *getattr(self.model.carrier, "tensors", ())]))

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """For every stored name that depth adds or moves: the name that it has before depth, and
        the text of its recipe (``rewrite.made``). A gate has no source."""
        script, names = self.depth, self._names
        out = {new: (old, "copy") for new, old in self.moves.items()}
        for clone in script.clones:
            made = {n: m.text for w, m in clone.made.items() for n in w.names}
            origins = {n: o.name for w, o in clone.origins.items() for n in w.names}
            own = {n for w in clone.block.weights for n in w.names}
            for name in names:
                if name in own or within(name, clone.modules):
                    out[clone.name(name)] = (origins.get(name, name), made.get(name, "copy"))
            if clone.gate:
                out[clone.gate] = ("", "0.0")
        return out | {n: ("", repr(v)) for n, v in script.scalars.items()}
