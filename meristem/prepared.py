"""A plan with what carries it out on one model: the carrier after width, after mixtures, and the depth
script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meristem.mixtures import upcycling
from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.methods import method
from meristem.rewrite.numbering import within
from meristem.rewrite.plan import Plan


@dataclass
class Prepared:
    """A plan with what carries it out on one model."""

    model: Model
    plan: Plan
    script: EditScript | None
    layers: dict[str, int]
    experts: dict[str, int] = field(default_factory=dict)

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
    def depth(self) -> Any:
        """The depth script on the widened carrier; None without new layers."""
        if not self.layers:
            return None
        from meristem.rewrite.depth import plan_depth

        wide = Model(self.widened, self.model.side)
        chosen = method(self.plan.method)
        if chosen.depth == "net2deeper":
            from meristem.rewrite.deeper import plan_deeper

            places = dict(zip(self.model.sites, wide.sites.values(), strict=True))
            return plan_deeper(wide.graph, {places[name]: n for name, n in self.layers.items()})
        # Widening adds operators without paths to files that have no others, so names are not asked.
        twins = dict(zip(self.model.stacks, wide.stacks.values(), strict=True))
        targets = {twins[name]: n for name, n in self.layers.items()}
        if chosen.parts:
            from meristem.rewrite.sublayers import plan_sublayers

            script = plan_sublayers(wide.graph, self._units(wide, targets), targets)
        else:
            script = plan_depth(
                wide.graph,
                wide.equations,
                targets,
                at=self.plan.at,
                order=chosen.order,
                cancel=chosen.depth == "cancel",
                fresh=f"{self.plan.seed}|inside" if chosen.insides == "fresh" else "",
            )
        if chosen.explicit:
            from meristem.rewrite.sublayers import scalars

            script.scales = scalars(wide.graph, self._units(wide, targets))
        return script

    def _units(self, wide: Model, targets: Mapping[Any, int]) -> list[Any]:
        """What is split."""
        from meristem.rewrite.split import units

        return units(wide.graph, wide.equations, targets, method(self.plan.method))

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
