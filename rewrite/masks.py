"""Masked growth: what would be zero is drawn instead and stands behind a mask that is moved from 0 to 1.

MSG (arXiv:2305.02869): at mask 0 the function is the old one, at 1 the model is the plain larger one. Masks
stand where the proof needs zeros, so that nothing else is asked of new weights; norms weigh what they
normalise by the mask m, 1 for old coordinates:

    mean = sum m x / sum m,  variance = sum m (x - mean)^2 / sum m.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from meristem.rewrite.edits import EditScript, MaskEdit, WeightEdit
from meristem.rewrite.expansion import Expansion, Fill
from meristem.rewrite.lift import Digits

NAME = "growth_mask"
Index = tuple[int, ...]


def mask(script: EditScript, at: float) -> None:
    """Draw what is zero, and mask it at ``at``; at 1 masks and masked norms are left out."""
    script.mask = at
    edits, script.masks = script.weights, []
    script.weights = []
    for e in edits:
        axes = _axes(e.expansion) if e.weight.role == "parameter" and e.weight.is_float else ()
        script.weights.append(_drawn(e) if axes else e)
        for axis in axes:
            source, _ = e.expansion.axes[axis].coordinates()
            old = np.flatnonzero(source >= 0)
            script.masks.append(MaskEdit(e.weight, axis, old, len(source)))
    if at == 1:
        script.masks, script.statistics = [], []


def _drawn(edit: WeightEdit) -> WeightEdit:
    fills = {i: Fill("free") if f.kind == "zero" else f for i, f in edit.expansion.fills.items()}
    return replace(edit, expansion=replace(edit.expansion, fills=fills))


def _axes(recipe: Expansion) -> tuple[int, ...]:
    """The axes whose new coordinates cover all zero blocks, one if possible; none where a block behind
    them has to be positive."""
    grids = [a.blocks() for a in recipe.axes]
    zeros = [_fresh(grids, i) for i, f in recipe.fills.items() if f.kind == "zero"]
    others = [_fresh(grids, i) for i, f in recipe.fills.items() if f.kind not in ("zero", "free")]
    if not zeros:
        return ()
    single = [(a,) for a in range(len(grids)) if all(a in z for z in zeros)]
    chosen = next(iter(single), tuple(sorted(set().union(*zeros))))
    return () if any(set(chosen) & o for o in others) else chosen


def _fresh(grids: Iterable[list[Digits]], index: Index) -> set[int]:
    """The axes along which a block is new."""
    return {
        a
        for a, (grid, i) in enumerate(zip(grids, index, strict=True))
        if any(fresh for _, fresh in grid[i])
    }


__all__ = ["NAME", "mask"]
