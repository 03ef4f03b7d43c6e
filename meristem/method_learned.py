"""method="learned": recipes of replicas become recipes of matrices, which are learned or in the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meristem.model import Model
from meristem.rewrite.combine import Sum, combine, counts, shape, sums
from meristem.rewrite.edits import EditScript, WeightEdit
from meristem.rewrite.errors import MeristemError, NotPreserved
from meristem.rewrite.graph import Array
from meristem.rewrite.maps import axes_of, mapping, start
from meristem.rewrite.methods import Method
from meristem.rewrite.packed import pack, unpack
from meristem.supplied import Supplied

if TYPE_CHECKING:
    from meristem.widening import Widening


def changes(growth: Widening, script: EditScript, chosen: Method, supplied: Supplied) -> None:
    """Replace recipes by those of the plan's matrices, which are learned where they are not given."""
    plan = growth.plan
    stacks = growth.model.stacks
    blocks = dict(supplied.blocks) or counts(supplied.maps, stacks)
    tied = bool(chosen.settings["tied"])
    maps = _Maps(
        growth.model,
        {
            k: size
            for e in script.weights
            if e.weight.role == "parameter" and not e.expansion.rule
            for k, size in axes_of(e.expansion).items()
        },
        [s for name, n in blocks.items() for s in sums(stacks[name], n, tied=tied)],
        blocks,
    )
    plan.maps = dict(supplied.maps) or maps.learn(script, chosen, supplied.loss, plan.seed)
    maps.apply(script, plan.maps)
    if maps.sizes:
        plan.approximate.append("new coordinates are learned combinations of the old")
    for name, n in blocks.items():
        plan.approximate.append(f"blocks of {name} are learned combinations of its first {n}")


@dataclass
class _Maps:
    """The matrices of a growth: C by (old, new) ``sizes``, D by what is ``summed`` (``blocks`` a stack)."""

    model: Model
    sizes: dict[str, tuple[int, int]]
    summed: Sequence[Sum]
    blocks: Mapping[str, int]

    @property
    def depths(self) -> dict[str, Array]:
        """What every D starts from (``rewrite.combine.shape``)."""
        return {
            k: shape(self.summed, k, self.model.stacks, self.blocks[k.split("|")[1]])
            for k in dict.fromkeys(s.key for s in self.summed)
        }

    def apply(self, script: EditScript, maps: Mapping[str, str]) -> None:
        """Recipes of these matrices; what is no parameter keeps its replicas."""
        rows = {k: d.shape for k, d in self.depths.items()}
        rows |= {k: (new - old, old) for k, (old, new) in self.sizes.items()}
        matrices = {k: unpack(c, rows[k]) for k, c in maps.items() if k in rows}
        script.weights = [
            replace(e, expansion=mapping(e.expansion, matrices)) if _mapped(e) else e
            for e in script.weights
        ]
        combine(script, self.summed, matrices)

    def learn(self, script: EditScript, chosen: Method, loss: Any, seed: int) -> dict[str, str]:
        """The matrices that lower the loss, packed, by name.

        Raises MeristemError without a loss, NotPreserved where there is nothing to learn.
        """
        if loss is None:
            raise MeristemError(
                'method="learned" learns on batches: give loss=, a function of a module, such as '
                "lambda m: torch.nn.functional.cross_entropy(m(x), y)",
                needs="loss",
            )
        if not self.sizes and not self.summed:
            raise NotPreserved(
                "nothing in this request can be a combination of old coordinates: its sums are not those "
                'of weights alone; use method="preserve"'
            )
        from meristem.training.learned import Settings, learn

        numbers = chosen.settings
        settings = Settings(numbers["steps"], numbers["rate"], numbers["rank"], numbers["noise"])
        module = Model(self.model.side.widen(self.model.carrier, script), self.model.side).module()
        first = {k: pack(start(old, new, k)) for k, (old, new) in self.sizes.items()}
        first |= {k: pack(d > 0) for k, d in self.depths.items()}
        trial = replace(script, weights=list(script.weights))
        self.apply(trial, first)
        made = self._made(trial)
        found = learn(module, made, self.sizes, self.depths, loss, settings, seed)
        return {k: pack(c) for k, c in found.items()}

    def _made(self, trial: EditScript) -> dict[str, Any]:
        """For every weight what the matrices act on; equal tensors once."""
        from meristem.training.learned import Made

        own = {s.weight: s for s in self.summed}
        known: dict[Any, Array] = {}

        def core(e: WeightEdit, w: Any) -> Array:
            recipe = e.expansion
            plain = not (recipe.fills or recipe.scales)
            key = (w, str([a.core.term for a in recipe.axes]) if plain else e.weight)
            if key not in known:
                known[key] = recipe.core(w.array(), np.dtype("float64"))
            return known[key]

        out = {}
        for e in trial.weights:
            s = own.get(e.weight)
            if s is not None:
                cores = [core(e, w) for w in s.terms]
                out[e.weight.name] = Made(e.expansion, cores, s.key, s.row, s.columns)
            elif e.expansion.maps:
                out[e.weight.name] = Made(e.expansion, [core(e, e.weight)])
        return out


def _mapped(e: WeightEdit) -> bool:
    """Do matrices take the place of a recipe's replicas?"""
    recipe = e.expansion
    return e.weight.role == "parameter" and bool(axes_of(recipe)) and not recipe.rule


__all__ = ["changes"]
