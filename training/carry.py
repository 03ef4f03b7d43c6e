"""An optimizer's groups and state, by the names of weights, through growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array
from meristem.rewrite.moments import NEW, carried
from meristem.training.lineage import Heir, Lineage
from meristem.training.states import POWERS, Rules, check_state

State = dict[str, Any]
Group = dict[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Carry:
    """One growth as an optimizer sees it. ``shapes`` are those of the source's weights by the names of
    their recipes, ``new`` is what entries without a past begin with (``rewrite.moments.NEW``)."""

    lineage: Lineage
    heirs: Sequence[Heir]
    shapes: Mapping[str, Shape]
    grown: Mapping[str, Shape]
    rules: Rules
    new: str

    def check(self, state: Mapping[str, State]) -> None:
        """Raises MeristemError where something does not fit; before anything is made."""
        if self.new not in NEW:
            raise MeristemError(
                f"new={self.new!r} is not known; choose from {', '.join(NEW)}", new=self.new
            )
        for name, entries in state.items():
            check_state(name, self.shapes[name], entries, self.rules)
        for heir in self.heirs:
            if not heir.whole or heir.source is None:
                continue
            recipe = self.lineage.recipe(heir.source)
            expected = self.shapes[heir.source] if recipe is None else recipe.shape
            if self.grown[heir.name] != expected:
                raise MeristemError(
                    f"{heir.name} has the shape {self.grown[heir.name]} in the module, and {expected} by "
                    "the plan; give a module of this growth",
                    weight=heir.name,
                )

    def groups(self, old: Sequence[Group]) -> list[Group]:
        """The groups with the names of grown weights: each with what stems from its weights; a weight
        without a source is where those of its place and rank are.

        A group that has its weights in the module's order has them in the grown module's: it is by this
        order that a checkpoint finds the state of a weight.
        """
        heirs: dict[str, list[str]] = {}
        for h in self.heirs:
            if h.source is not None:
                heirs.setdefault(h.source, []).append(h.name)
        out = [
            {**group, "params": [n for p in group["params"] for n in heirs.get(p, ())]}
            for group in old
        ]
        home = {n: group for group in out for n in group["params"]}
        for orphan in (h.name for h in self.heirs if h.source is None):
            near = self._nearest(orphan)
            if near in home:  # otherwise another optimizer has it
                home[near]["params"].append(orphan)
        place = {h.name: i for i, h in enumerate(self.heirs)}
        first = {s: i for i, s in reversed(list(enumerate(self.lineage.names.values())))}
        for group, before in zip(out, old, strict=True):
            ranks = [first[p] for p in before["params"]]
            if ranks == sorted(ranks):
                group["params"].sort(key=place.__getitem__)
        return out

    def _nearest(self, name: str) -> str | None:
        """The weight with a past whose place has most in common with that of ``name``, of its rank if
        there is one."""
        rank = len(self.grown[name]) > 1
        with_past = [h.name for h in self.heirs if h.source is not None]
        alike = [n for n in with_past if (len(self.grown[n]) > 1) == rank] or with_past
        parts = name.split(".")

        def common(other: str) -> int:
            pairs = zip(parts, other.split("."), strict=False)
            return next((i for i, (a, b) in enumerate(pairs) if a != b), len(parts))

        return max(alike, key=common, default=None)

    def states(self, old: Mapping[str, State]) -> dict[str, State]:
        """The state of every grown weight that has one."""
        out: dict[str, State] = {}
        for heir in self.heirs:
            state = old.get(heir.source) if heir.source is not None else None
            if not state:
                continue
            assert heir.source is not None
            recipe, rank = self.lineage.recipe(heir.source), len(self.shapes[heir.source])
            if heir.whole or heir.among > 1:
                out[heir.name] = self._carried(state, recipe, rank, heir.among)
            elif self.new == "mean" and "second" in self.rules.values():
                beside = self.shapes[heir.source] if recipe is None else recipe.shape
                if beside == self.grown[heir.name]:
                    out[heir.name] = self._fresh(state, recipe, rank)
        return out

    def _carried(self, state: State, recipe: Expansion | None, rank: int, among: int = 1) -> State:
        out: State = {}
        for key, value in state.items():
            rule = self.rules[key]
            if value is None or rule == "step" or (recipe is None and among == 1):
                out[key] = unshared(value)
            elif rule in POWERS:
                out[key] = _like(_lift(_wide(value), recipe, POWERS[rule], self.new, among), value)
            elif rule == "average":
                wide = _wide(value)
                out[key] = _like(wide if recipe is None else recipe.apply(wide), value)
        return out | _factors(state, self.rules, recipe, self.new, among, rank)

    def _fresh(self, state: State, recipe: Expansion | None, rank: int) -> State:
        """What a weight of a new layer begins with: the second moments of the one that it is like."""
        out = self._carried(state, recipe, rank)
        for key, value in out.items():
            if self.rules[key] not in ("second", "rows", "columns", "step"):
                out[key] = torch.zeros_like(value) if isinstance(value, torch.Tensor) else value
        return out


def _factors(
    state: State, rules: Rules, recipe: Expansion | None, new: str, among: int, rank: int
) -> State:
    """Row and column means of a second moment of that rank, lifted as what they stand for."""
    keys = {rule: key for key, rule in rules.items() if rule in ("rows", "columns")}
    if not keys.keys() or keys["rows"] not in state or (recipe is None and among == 1):
        return {}
    rows, columns = _wide(state[keys["rows"]]), _wide(state[keys["columns"]])
    dropped = rows.ndim < rank  # the axis that was averaged
    if dropped:
        rows, columns = rows[..., None], columns[..., None, :]
    scale = rows.mean(axis=-2, keepdims=True)
    whole = rows * columns / np.where(scale == 0, 1, scale)
    whole = _lift(whole, recipe, 2.0, new, among)
    return {
        keys["rows"]: _like(whole.mean(axis=-1, keepdims=not dropped), state[keys["rows"]]),
        keys["columns"]: _like(whole.mean(axis=-2, keepdims=not dropped), state[keys["columns"]]),
    }


def _lift(wide: Array, recipe: Expansion | None, power: float, new: str, among: int) -> Array:
    out = wide if recipe is None else carried(recipe, wide, power, new)
    return out / among**power


def _wide(x: torch.Tensor) -> Array:
    return np.asarray(x.detach().to("cpu", torch.float64).numpy())


def _like(x: Array, old: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).to(old.device, old.dtype)


def unshared(value: Any) -> Any:
    """A number or a tensor that shares nothing."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


__all__ = ["Carry", "Group", "State", "unshared"]
