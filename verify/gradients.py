"""Level 3: do new weights learn, are twins locked, and do old weights receive their old gradients?

All in float64, on the programs of level 1, with a random linear functional of the outputs as the loss:

- Growth is F'(T(w)) = F(w) for every w, with T the recipe, so the gradients obey dF = T^t dF'. For a
  direction d of the old weight this is <dF, d> = <dF', T d>, where T d is the recipe's linear part.
- A fresh block whose partner is zero has no gradient at the first step and must have one after the
  partner has moved: at the second, or later in a chain of zeros. One that never has is on a saddle.
- Two coordinates that are equal and receive equal gradients after these steps stay equal for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from meristem.carriers.torch_carrier import storage_key
from meristem.rewrite.edits import BoundaryEdit
from meristem.rewrite.expansion import Expansion, Fill, Split
from meristem.rewrite.graph import Array
from meristem.rewrite.lift import is_leaf
from meristem.rewrite.made import Constant, Made, Rebuilt
from meristem.rewrite.masks import NAME
from meristem.rewrite.upcycle import members
from meristem.verify.experts import watch
from meristem.verify.inputs import Sample
from meristem.verify.numeric import Interface, worst
from meristem.verify.programs import TorchDouble, TorchModule, to_numpy
from meristem.verify.recipes import Recipes
from meristem.verify.report import Measure, Verdict, judge, not_checked
from meristem.verify.twins import NOTHING, TWIN, twins

# Relative to the product of both norms; float64 gives 1e-16 to 1e-12.
LIFT_LIMIT = 1e-9
# One step moves the weights by this part of their norm.
STEP = 0.01
# A zero factor moves at the first step and wakes its partner at the second. A unit that is new in a
# block that is new, or behind a head that is tied to an embedding, stands behind two of them or three.
STEPS = 4
# Where the mask of masked growth is moved to for these steps.
HALF = 0.5
_DIRECTIONS = 3

Gradients = dict[str, Array]


@dataclass
class Leaves:
    """A program in float64 whose parameters are leaves; tied names are one leaf under its first name."""

    program: TorchDouble
    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    tied: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(program: TorchDouble) -> Leaves:
        out = Leaves(program)
        names: dict[Any, str] = {}
        tensors = program.module.tensors
        for _, name, role, stored in program.carrier.stored():
            if role != "parameter" or not stored.is_floating_point():
                continue
            first = names.setdefault(storage_key(stored), name)
            if first == name:
                out.leaves[name] = tensors[name].detach().clone().requires_grad_()
            out.tied.setdefault(first, []).append(name)
            tensors[name] = out.leaves[first]
        return out

    def gradients(
        self, samples: Sequence[Sample], names: Sequence[str], interface: Interface, *, old: bool
    ) -> Gradients:
        """Gradients of the functional; ``old`` weighs the old coordinates of grown outputs alone.

        ``names`` are the outputs' names in the original: growth may rename them.
        """
        loss = torch.zeros((), dtype=torch.float64)
        for sample in samples:
            for name, y in zip(names, self.program.tensors(sample), strict=True):
                if y.is_floating_point() and y.requires_grad:
                    loss = loss + _functional(y, name, sample.label, interface, old)
        if not loss.requires_grad:
            return {}
        got = torch.autograd.grad(loss, list(self.leaves.values()), allow_unused=True)
        return {
            n: np.zeros(tuple(w.shape)) if g is None else to_numpy(g)
            for (n, w), g in zip(self.leaves.items(), got, strict=True)
        }

    def step(self, gradients: Gradients) -> None:
        """One step of gradient descent that moves the weights by ``STEP`` of their norm."""
        size = _norm(to_numpy(w) for w in self.leaves.values())
        rate = STEP * size / max(_norm(gradients.values()), 1e-300)
        with torch.no_grad():
            for name, w in self.leaves.items():
                w -= rate * torch.from_numpy(gradients[name])


def _norm(arrays: Iterable[Array]) -> float:
    return float(np.sqrt(sum(float(np.vdot(a, a)) for a in arrays)))


def _functional(
    y: torch.Tensor, name: str, label: str, interface: Interface, old: bool
) -> torch.Tensor:
    """<R, y> with R drawn for the old coordinates, so that both models have the same one there."""
    grown = interface.positions(name)
    parts = y
    for axis, positions in grown:
        parts = parts.index_select(axis, torch.from_numpy(positions))
    out = (_weights(parts.shape, f"{name}|{label}") * parts).sum()
    if grown and not old:
        out = out + (_weights(y.shape, f"new|{name}|{label}") * y).sum()
    return out


def _weights(shape: Sequence[int], key: str) -> torch.Tensor:
    rng = np.random.default_rng(list(key.encode()))
    return torch.from_numpy(rng.standard_normal(tuple(shape)))


def training(
    original: TorchDouble,
    grown: TorchDouble,
    samples: Sequence[Sample],
    interface: Interface,
    recipes: Recipes,
    *,
    indexed: Mapping[str, set[int]],
    locked: Sequence[str] = (),
    saddles: Sequence[str] = (),
    cropped: Sequence[BoundaryEdit] = (),
    module: TorchModule | None = None,
    preserves: bool = True,
) -> Verdict:
    """Level 3 of verification.

    ``indexed`` are the axes by which weights are read row by row (an embedding's rows): new rows learn
    when they are read. ``locked`` and ``saddles`` are what the plan says of itself. ``cropped`` is the
    interface that growth keeps: new coordinates that end in a cropped output are followed up to there.
    ``module`` is the trainable module, whose parameters must receive what the program's do. Where growth
    does not preserve the function there is no lift of old gradients to compare with.
    """
    before, names = Leaves.of(original), original.outputs
    after = Leaves.of(grown)
    if not before.leaves:
        return not_checked("the model has no parameters")
    first = before.gradients(samples, names, Interface(), old=True)
    if not any(np.any(g) for g in first.values()):
        return not_checked("no output depends on a parameter by a gradient")
    placed = [interface.inputs(s) for s in samples]
    lifted = after.gradients(placed, names, interface, old=True)
    ends = [e for e in cropped if e.output]
    grown.uncrop(ends, names)
    whole = Interface([*interface.edits, *ends])
    measures = [*_adjoint(first, lifted, before, after, recipes)] if preserves else []
    notes: list[str] = []
    if NAME in grown.module.tensors:  # behind a mask of zero nothing learns
        grown.module.tensors[NAME] = torch.full((), HALF, dtype=torch.float64)
        notes.append(f"new coordinates learn with their mask at {HALF}")
    steps = []
    for _ in range(STEPS):
        steps.append(after.gradients(placed, names, whole, old=False))
        after.step(steps[-1])
    settled = after.gradients(placed, names, whole, old=False)
    failures: list[str] = []
    dead, excused = _dead(steps, after, recipes, indexed)
    notes += excused
    moved = {n: to_numpy(w) for n, w in after.leaves.items()}
    mixed = watch(members(recipes.clones), steps, moved, NOTHING, TWIN)
    dead = [d for d in dead if d.partition(" ")[0] not in mixed.idle]
    notes += mixed.notes
    remarks: list[str] = []
    known = [*saddles, *(f"the padded input {e.name}" for e in cropped if not e.output)]
    if dead and known:
        told = ", ".join(known[:4])
        remarks.append(f"{len(dead)} new blocks cannot train, as the plan says ({told})")
    else:
        failures += dead
    failures += mixed.failures
    equal = twins(moved, settled, recipes)
    if equal and locked:
        told = ", ".join(equal[:4])
        remarks.append(f"twins stay equal under training, as the plan says ({told})")
    else:
        failures += [f"new coordinates of {t} stay equal under training" for t in equal]
    if module is not None:
        failures += _module(module, names, placed, lifted, after, interface)
    lifts = "old gradients are the lifted old ones" if preserves else "old gradients have no lift"
    return judge(
        worst(measures), exact=preserves and all(m.error == 0 for m in measures), failures=failures,
        inputs=[str(s) for s in samples], notes=notes,
        remark="; ".join(remarks) or f"every new block learns, {lifts}",
    )  # fmt: skip


# -- old gradients -----------------------------------------------------------------------------------


def _adjoint(
    old: Gradients, new: Gradients, before: Leaves, after: Leaves, recipes: Recipes
) -> Iterable[Measure]:
    """<dF, d> against <dF', T d> in random directions, for every old weight."""
    home = {n: first for first, names in after.tied.items() for n in names}
    came: dict[str, list[str]] = {}
    for name in home:
        source = recipes.clones.get(name, (name, ""))[0]
        if recipes.made(name).linear:  # a moved weight, or one of a new layer
            came.setdefault(source, []).append(name)
    total = max(_norm([g]) for g in old.values())
    for name, g in old.items():
        partners = {home[m]: recipes.made(m) for n in before.tied[name] for m in came.get(n, [])}
        if not partners:
            continue
        recipe = recipes.weights.get(name)
        rng = np.random.default_rng(list(name.encode()))
        most, limit = 0.0, 0.0
        for _ in range(_DIRECTIONS):
            d = rng.standard_normal(g.shape)
            t = d if recipe is None else linear(recipe).apply(d)
            h = sum(float(np.vdot(new[p], m.apply(t))) for p, m in sorted(partners.items()))
            error = abs(float(np.vdot(g, d)) - h)
            allowed = LIFT_LIMIT * _norm([d]) * max(_norm([g]), total * 1e-3)
            if error * limit >= most * allowed:
                most, limit = error, allowed
        yield Measure(f"gradient of {name} through its lift", most, limit)


def linear(recipe: Expansion) -> Expansion:
    """The derivative of a recipe: what it draws is constant, so are shifts and noise.

    Models beside it that preserve its function are the model itself.
    """
    fills = {
        at: fill if fill.kind in ("mean", "copy") else Fill("zero")
        for at, fill in recipe.fills.items()
    }
    blocks = [a.core.blocks() for a in recipe.axes]
    split = Split(recipe.split.unequal)
    for at in np.ndindex(*(len(b) for b in blocks)):
        if any(fresh for b, i in zip(blocks, at, strict=True) for _, fresh in b[i]):
            fills.setdefault(at, Fill("zero"))
    return replace(recipe, fills=fills, shift=0.0, progression=None, split=split, donors=())


# -- new weights -------------------------------------------------------------------------------------


def _dead(
    steps: Sequence[Gradients], after: Leaves, recipes: Recipes, indexed: Mapping[str, set[int]]
) -> tuple[list[str], list[str]]:
    """New blocks that no step reaches, and those that are excused, in words."""
    floor = [NOTHING * max(float(np.abs(g).max(initial=0)) for g in s.values()) for s in steps]

    def silent(name: str, cells: Any, count: int = len(steps)) -> bool:
        return all(
            float(np.abs(s[name][cells]).max(initial=0)) <= f
            for s, f in zip(steps[:count], floor, strict=False)
        )

    dead: list[str] = []
    unread: list[str] = []
    same: list[str] = []
    late: list[str] = []
    for first, names in after.tied.items():
        clone = next((n for n in names if n in recipes.clones), None)
        recipe = recipes.recipe(first)
        if clone is not None:
            source = recipes.clones[clone][0]
            told = source in after.tied
            if silent(first, ...):
                if told and silent(source, ...):
                    same.append(first)
                else:
                    dead.append(f"{first} receives no gradient in {len(steps)} steps")
                continue
            for cells in _zeros(after.leaves[first], recipes.made(clone)) if told else ():
                if silent(first, cells) and not silent(source, cells):
                    dead.append(
                        f"{first} is zero in a part that receives no gradient in {len(steps)} steps"
                    )
                    break
        if recipe is None or not recipe.changes:
            continue
        where = [a.coordinates()[1] for a in recipe.axes]
        bases = [_bases(a.term) for a in recipe.axes]
        rows = set().union(*(indexed.get(recipes.clones.get(n, (n, ""))[0], set()) for n in names))
        for at in np.ndindex(*map(len, bases)):
            base = tuple(b[i] for b, i in zip(bases, at, strict=True))
            cells = _cells(where, at)
            if base == at or not silent(first, cells):
                if base != at and silent(first, cells, 2):
                    late.append(first)
                continue
            if any(at[a] != base[a] for a in rows):
                unread.append(first)
            elif silent(first, _cells(where, base)):
                same.append(first)
            else:
                dead.append(f"block {at} of {first} receives no gradient in {len(steps)} steps")
    notes = []
    late = [n for n in dict.fromkeys(late) if n not in dead]
    for group, why in (
        (late, "first learn at the third step or later"),
        (unread, "are rows that no index reads yet"),
        (same, "receive no gradient, as the old ones that they extend"),
    ):
        if group:
            names = list(dict.fromkeys(group))
            more = ", ..." if len(names) > 3 else ""
            notes.append(f"{len(group)} new blocks {why} ({', '.join(names[:3])}{more})")
    return dead, notes


def _zeros(w: torch.Tensor, made: Made) -> Iterator[tuple[Any, ...]]:
    """Slices of a copied tensor that are zero still, which its source may not have kept.

    Not of those that begin as zero, or whose halves cancel: units that are off in this place of the stack
    would be taken for zeros that nothing moves.
    """
    cancels = isinstance(made, Rebuilt) and any(
        sign < 0 for fill in made.recipe.fills.values() for _, sign in fill.pairs
    )
    if isinstance(made, Constant) or cancels or w.dim() < 2:
        return
    asleep = to_numpy(w) == 0
    for axis in range(w.dim()):
        rest = tuple(a for a in range(w.dim()) if a != axis)
        for place in np.flatnonzero(asleep.all(axis=rest)):
            yield (*(slice(None),) * axis, int(place))


def _bases(term: Any) -> list[int]:
    """For every block of a lift's term the one that it is when nothing is new: q of a new head is
    matched with q of the old heads."""
    if is_leaf(term):
        return [0] if term[1] == term[2] else [0, 0]
    parts = [_bases(p) for p in term[1:]]
    if term[0] == "cat":
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        return [start + b for start, part in zip(starts, parts, strict=False) for b in part]
    out = [0]
    for part in parts:
        out = [i * len(part) + b for i in out for b in part]
    return out


def _cells(where: Sequence[Array], at: tuple[int, ...]) -> Any:
    return np.ix_(*(np.flatnonzero(w == i) for w, i in zip(where, at, strict=True)))


def _module(
    module: TorchModule,
    outputs: Sequence[str],
    samples: Sequence[Sample],
    expected: Gradients,
    after: Leaves,
    interface: Interface,
) -> list[str]:
    """Parameters of the trainable module that miss a gradient which the program has."""
    own = dict(module.module.named_parameters(remove_duplicate=False))
    floor = NOTHING * max(float(np.abs(g).max(initial=0)) for g in expected.values())
    names = [n for n in after.leaves if n in own and own[n].requires_grad]
    missing = [f"the module has no parameter {n}" for n in after.leaves if n not in own]
    terms = [
        _functional(y.double(), name, sample.label, interface, True)
        for sample in samples
        for name, y in zip(outputs, module.tensors(sample), strict=True)
        if y.is_floating_point() and y.requires_grad
    ]
    if not terms or not names:
        return [*missing, "the trainable module has no gradients"]
    got = torch.autograd.grad(torch.stack(terms).sum(), [own[n] for n in names], allow_unused=True)
    for n, g in zip(names, got, strict=True):
        if g is None and np.abs(expected[n]).max(initial=0) > floor:
            missing.append(f"{n} receives no gradient in the trainable module")
        elif g is not None and not bool(torch.isfinite(g).all()):
            missing.append(f"the gradient of {n} in the trainable module is not finite")
    return missing


__all__ = ["training"]
