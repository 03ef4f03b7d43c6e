"""Outputs that a source of inputs says: what the grown model gives is held against them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample
from meristem.verify.numeric import (
    DEPLOYMENT_FACTOR,
    Deployed,
    Interface,
    attempt,
    difference,
    scale_of,
    shapes_differ,
)
from meristem.verify.report import Measure


def expected(
    settings: Sequence[Deployed],
    samples: Sequence[Sample],
    wanted: Mapping[str, tuple[Array, ...]],
    interface: Interface,
    eps: float,
) -> tuple[list[Measure], list[str]]:
    """Measurements of the grown model against expected outputs, and what failed. ``wanted`` are outputs in
    order by the label of their sample; ``eps`` is the spacing of the model's own type.

    They come from a run of the original somewhere, so the grown model may be as far from them as rounding
    puts two runs apart: the floor of level 2, for each of both.
    """
    measures, failures = [], []
    for sample in samples:
        if sample.label not in wanted:
            continue
        for s in settings:
            names = s.original.outputs
            got, problem = attempt(s.grown, interface.inputs(sample))
            if not problem:
                got = interface.outputs(names, got)
                problem = shapes_differ(names, wanted[sample.label], got)
            if problem:
                failures.append(f"{s.setting}, {sample}: against expected outputs: {problem}")
                continue
            for name, e, g in zip(names, wanted[sample.label], got, strict=True):
                limit = 2 * DEPLOYMENT_FACTOR * s.floor(eps) * scale_of(e)
                what = f"{name} against what {sample} expects ({s.setting})"
                measures.append(Measure(what, difference(e, g), limit))
    return measures, failures


__all__ = ["expected"]
