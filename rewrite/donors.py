"""Which further tensors a recipe reads: those of the next block, or those of other models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from meristem.rewrite.edits import EditScript, WeightEdit
from meristem.rewrite.errors import NotPreserved, SizeError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Graph, Weight
from meristem.rewrite.lift import Lift, leaves
from meristem.rewrite.reports import listed
from meristem.rewrite.same import difference
from meristem.rewrite.stacks import Stack


def from_next_blocks(script: EditScript, stacks: Iterable[Stack]) -> list[str]:
    """New units of a block are those of the next block of its kind; what that changes, in words.

    Advanced knowledge initialisation (arXiv:2110.07143 section 3.4): U_l = [U_l; U_(l+1) of g],
    both with their columns divided among replicas. The last blocks keep copies of their own.

    Raises NotPreserved where no stack has a next block with copies in it.
    """
    at = {e.weight: i for i, e in enumerate(script.weights)}
    said = []
    for stack in stacks:
        taken = 0
        for block, following in zip(stack.blocks, stack.blocks[stack.period :], strict=False):
            if block.exact != following.exact:
                continue
            for w, donor in zip(block.named, following.named, strict=True):
                if w in at and w is not donor and _repeats(script.weights[at[w]].expansion):
                    edit = script.weights[at[w]]
                    recipe = replace(edit.expansion, donors=(donor.name,), blend="advanced")
                    script.weights[at[w]] = WeightEdit(w, recipe, (donor,))
                    taken += 1
        if taken:
            said.append(f"{stack.name} takes new units of {taken} weights from the next block")
    if not said:
        raise NotPreserved(
            "no new unit has a counterpart in a next block: the request copies nothing inside of repeated "
            'blocks; use method="fpi", which copies within each layer, or "net2wider", which is exact',
        )
    return said


def _repeats(recipe: Expansion) -> bool:
    """Does an axis hold whole copies of coordinates?"""
    return any(not a.shares and any(t[0] == "copy" for t in leaves(a.term)) for a in recipe.axes)


def from_models(script: EditScript, graph: Graph, others: Sequence[Graph]) -> list[str]:
    """Replicas of the r-th round are those of the r-th other model; what that changes, in words.

    Deep Fusion (arXiv:2306.11903): the models side by side, their results averaged where the copies end.
    Without other models, or with the model itself, replicas are its own, which is exact (self-fusion).

    Raises SizeError where an axis does not become as many times as long as there are models, and
    NotPreserved where the others are not of one shape with the model.
    """
    for i, g in enumerate(others):
        why = difference(graph, g)
        if why:
            raise NotPreserved(
                f"fuse sets models of one program side by side, and model {i + 1} of models= is another: "
                f"{why}; give models of one class and one configuration, or grow the smaller one first",
                model=i + 1,
                reason=why,
            )
    edits = {e.weight: e for e in script.weights}
    tables = [{w.name: w for w in g.weights} for g in others]
    found: dict[Weight, WeightEdit] = {}
    for w in graph.weights:
        edit = edits.get(w) or WeightEdit(w, _unchanged(w))
        _refuse_other_sizes(edit.expansion, len(others) + 1 if others else 0)
        _refuse_crossings(edit.expansion)
        if not w.is_float or not others:
            continue
        donors = tuple(t[w.name] for t in tables)
        if w in edits or not _same(w, donors):
            names = tuple(f"{i + 1}:{d.name}" for i, d in enumerate(donors))
            found[w] = WeightEdit(w, replace(edit.expansion, donors=names, blend="fused"), donors)
    if all(_same(w, e.donors) for w, e in found.items()):
        script.weights = [
            replace(e, expansion=replace(e.expansion, blend="fused")) for e in script.weights
        ]
        return []
    edits |= found
    script.weights = [edits[w] for w in graph.weights if w in edits]
    mean = [w.name for w, e in found.items() if _averaged(e.expansion)]
    return [
        f"{len(others) + 1} models side by side, averaged in {listed(mean)}: the mean of their results, "
        "where nothing but sums follows these and no norm reads several models"
    ]


def _averaged(recipe: Expansion) -> bool:
    """Does no axis of a weight tell the models apart that it holds?"""
    return not any(a.grows and not a.shares for a in recipe.axes)


def _same(w: Weight, others: Sequence[Weight]) -> bool:
    return all(np.array_equal(w.array(), o.array()) for o in others)


def _unchanged(w: Weight) -> Expansion:
    return Expansion(w.name, tuple(Lift(("atom", n, n)) for n in w.shape))


def _refuse_other_sizes(recipe: Expansion, count: int) -> None:
    """Copies of models are whole: one grown part in an axis, as many times as long."""
    for a in recipe.axes:
        grown = [t for t in leaves(a.term) if t[1] != t[2]]
        for t in grown:
            times = t[2] // t[1]
            if a.size != times * a.old_size or (count and times != count):
                raise SizeError(
                    f"{recipe.name} would go from {a.old_size} to {a.size} along an axis, but fuse sets "
                    f"{count or 'whole'} models side by side; ask for x{count or 2} of every dimension, of "
                    "heads or of their size but not of both",
                    weight=recipe.name,
                    size=a.old_size,
                    target=a.size,
                )


def _refuse_crossings(recipe: Expansion) -> None:
    """A weight leads from the parts of one axis to those of another, or knows one such axis.

    Entries between different parts are zero (``rewrite.blend.fused``), which is what keeps models apart
    where one axis is summed and the other is not. Where neither is, or both are, or there is a third, they
    would be missing from a sum elsewhere.
    """
    grown = [a for a in recipe.axes if a.grows]
    if len(grown) > 1 and (len(grown) > 2 or sum(a.shares for a in grown) != 1):
        raise NotPreserved(
            "fuse sets models side by side along one axis that a weight reads and one that it makes; "
            f"of {recipe.name} {len(grown)} axes would grow, and they are not such a pair; grow them one "
            'after another, or use method="clone"',
            weight=recipe.name,
        )


__all__ = ["from_models", "from_next_blocks"]
