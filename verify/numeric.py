"""Comparing two programs on samples, in float64 and in the dtype that they are deployed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meristem.rewrite.edits import BoundaryEdit
from meristem.rewrite.graph import Array
from meristem.rewrite.resizing import linear, resized
from meristem.verify.inputs import Sample
from meristem.verify.programs import Program
from meristem.verify.repeats import Repeats, varies
from meristem.verify.report import Measure, Verdict, joined, judge, not_checked
from meristem.verify.statistics import Gathered, distances, largest

# Level 1: relative to the largest output. Growth in float64 measures 1e-16 to 1e-12; a wrong factor
# of a thousandth in one weight shows at 1e-6.
ALGEBRA_LIMIT = 1e-10
# An output that nearly vanishes on one input is compared on the scale that it has on others.
SCALE_FLOOR = 1e-3
# Level 2: how much further than the original's own error a grown model may be from the reference,
# and the least error that is granted in units of eps x max|y|.
DEPLOYMENT_FACTOR = 4.0
DEPLOYMENT_FLOOR = 8.0
# In a copy of 11 or 8 bits the original's own error is measured far above that of float32, and the grown
# model's beside it: what is granted besides is the rounding of the result itself. 8 spacings would be a
# quarter of max|y| in bfloat16.
NARROW_FLOOR = 0.5


def copy_floor(dtype: str, eps: float) -> float:
    """The least error that is granted a copy in ``dtype``, in units of max|y|."""
    return (NARROW_FLOOR if dtype in ("float16", "bfloat16") else DEPLOYMENT_FLOOR) * eps


@dataclass
class Interface:
    """Inputs and outputs that grew themselves: where the old coordinates sit in the new ones.

    ``classes`` are the outputs whose last axis counts classes.
    """

    edits: Sequence[BoundaryEdit] = ()
    classes: frozenset[str] = frozenset()

    def inputs(self, sample: Sample) -> Sample:
        """The sample for the grown model: old values in their places, finite numbers elsewhere, and
        images interpolated."""
        arrays = dict(sample.arrays)
        for e in self.edits:
            if not e.output and e.name in arrays:
                arrays[e.name] = _spread(arrays[e.name], e)
        return Sample(sample.label, arrays, sample.sizes)

    def positions(self, name: str) -> list[tuple[int, Array]]:
        """(axis, old positions) of the grown axes of an output."""
        return [(e.axis, e.old) for e in self.edits if e.output and e.name == name]

    def outputs(self, names: Sequence[str], arrays: Sequence[Array]) -> list[Array]:
        """The old coordinates of the grown model's outputs; ``names`` are the original's."""
        out = []
        if len(names) != len(arrays):
            return list(arrays)
        for name, a in zip(names, arrays, strict=True):
            for axis, old in self.positions(name):
                a = np.take(a, old, axis)
            out.append(a)
        return out


def _spread(old: Array, e: BoundaryEdit) -> Array:
    if e.resized:
        image = resized(old, e.axis, linear(old.shape[e.axis], e.size))
        return image.astype(old.dtype)
    shape = list(old.shape)
    shape[e.axis] = e.size
    if old.dtype.kind == "f":
        rng = np.random.default_rng([len(e.name), e.axis, e.size])
        new = rng.standard_normal(shape).astype(old.dtype)
    else:
        new = np.full(shape, old.min() if old.size else 0, old.dtype)
    at: list[slice | Array] = [slice(None)] * len(shape)
    at[e.axis] = e.old
    new[tuple(at)] = old
    return new


@dataclass
class Pair:
    """The outputs of one sample: the reference's and another program's."""

    sample: Sample
    expected: list[Array]
    got: list[Array]


def unusable(arrays: Sequence[Array]) -> str:
    """Why outputs cannot be compared; empty where they can. Infinities (masked scores) can, unless there is
    nothing else."""
    floats = [a for a in arrays if a.dtype.kind == "f" and a.size]
    if any(np.isnan(a).any() or np.isinf(a).all() for a in floats):
        return "the original gives no number there"
    return "" if any(a.size for a in arrays) else "no output has an entry there"


def usable(arrays: Sequence[Array]) -> bool:
    """Can outputs be compared?"""
    return not unusable(arrays)


def overflows(expected: Sequence[Array], got: Sequence[Array]) -> bool:
    """Is something infinite, or no number, that should be finite?"""
    pairs = zip(expected, got, strict=False)
    floats = [(a, b) for a, b in pairs if a.dtype.kind == "f" and a.shape == b.shape]
    return any((np.isfinite(a) & ~np.isfinite(b)).any() for a, b in floats)


def attempt(program: Callable[[Sample], list[Array]], sample: Sample) -> tuple[list[Array], str]:
    """Outputs, or what the runtime says against this input."""
    try:
        return program(sample), ""
    except Exception as error:  # every runtime has its own; the text is reported
        return [], f"{type(error).__name__}: {error}".strip()


def shapes_differ(names: Sequence[str], expected: Sequence[Array], got: Sequence[Array]) -> str:
    """What is wrong with the outputs' number or sizes; empty where they agree."""
    if len(expected) != len(got):
        return f"{len(got)} outputs instead of {len(expected)}"
    for name, a, b in zip(names, expected, got, strict=True):
        if a.shape != b.shape:
            return f"output {name} has shape {b.shape} instead of {a.shape}"
    return ""


def difference(expected: Array, got: Array) -> float:
    """The largest absolute difference; infinite where one is not a number and the other is."""
    return float(distances(expected, got).max(initial=0.0))


def algebra(
    reference: Program,
    grown: Program,
    samples: Sequence[Sample],
    interface: Interface,
    stored: Sequence[Measure] = (),
    failures: Sequence[str] = (),
    notes: Sequence[str] = (),
    approximate: Sequence[str] = (),
) -> Verdict:
    """Level 1: both programs in float64 on every sample, and the stored weights.

    ``approximate`` is what the plan says does not preserve the function: errors are then reported.
    """
    names = reference.outputs
    wrong, remarks, pairs = [], list(notes), []
    for sample in samples:
        expected, problem = attempt(reference, sample)
        problem = problem or unusable(expected)
        if problem:
            remarks.append(f"{sample}: left out, {problem}")
            continue
        got, problem = attempt(grown, interface.inputs(sample))
        if not problem:
            got = interface.outputs(names, got)
            problem = shapes_differ(names, expected, got)
        if problem:
            wrong.append(f"{sample}: the grown model fails: {problem}")
        else:
            pairs.append(Pair(sample, expected, got))
        limits = [ALGEBRA_LIMIT * scale_of(e) for e in expected]
        if not approximate and (problem or _far(expected, got, limits)):
            why = varies(reference, sample, expected, limits)
            if why:
                return joined(not_checked(why), stored, failures)
    wrong = [*failures, *wrong]
    if not pairs and not wrong:
        return not_checked("no input was valid (" + "; ".join(remarks[-1:]) + "); pass inputs=")
    measures, exact = [], True
    for k, name in enumerate(names):
        if not any(p.expected[k].size for p in pairs):
            remarks.append(_EMPTY.format(name))
            continue
        scales = [scale_of(p.expected[k]) for p in pairs]
        for p, own in zip(pairs, scales, strict=True):
            scale = max(own, SCALE_FLOOR * max(scales))
            error = difference(p.expected[k], p.got[k])
            exact &= error == 0.0
            limit = scale if approximate else ALGEBRA_LIMIT * scale
            measures.append(Measure(f"{name} ({p.sample})", error, limit))
    inputs = [str(p.sample) for p in pairs]
    if approximate:
        return judge(
            _worst_stored(stored), exact=False, failures=wrong, inputs=inputs, notes=remarks,
            remark="; ".join(approximate), errors=measures,
        )  # fmt: skip
    return judge(
        [*worst(measures), *_worst_stored(stored)], exact=exact, failures=wrong, inputs=inputs,
        notes=remarks, remark=f"{len(stored)} stored tensors are as planned" if stored else "",
    )  # fmt: skip


_EMPTY = "output {} has no entry on any input, so it is not compared"


def _far(expected: Sequence[Array], got: Sequence[Array], limits: Sequence[float]) -> bool:
    """Is any output off by more than its limit?"""
    rows = zip(expected, got, limits, strict=True)
    return any(difference(e, g) > limit for e, g, limit in rows)


def scale_of(a: Array) -> float:
    """The largest finite entry; 0 for what is no float."""
    return largest(a) if a.dtype.kind == "f" else 0.0


def worst(measures: Sequence[Measure]) -> list[Measure]:
    """Every failure, and the nearest passes."""
    wrong = [m for m in measures if not m.ok]
    fine = sorted((m for m in measures if m.ok), key=lambda m: m.nearness, reverse=True)
    return wrong + fine[: max(1, 12 - len(wrong))]


def _worst_stored(measures: Sequence[Measure]) -> list[Measure]:
    wrong = [m for m in measures if not m.ok]
    return wrong or sorted(measures, key=lambda m: m.nearness, reverse=True)[:1]


@dataclass
class Deployed:
    """Both models in one setting of a runtime. ``granted`` is the least error that is granted in units of
    max|y|, where the setting is a copy in another type than the model's."""

    setting: str
    original: Program
    grown: Program
    granted: float | None = None

    def floor(self, eps: float) -> float:
        """The least error that is granted, in units of max|y|."""
        return DEPLOYMENT_FLOOR * eps if self.granted is None else self.granted


def deployment(
    reference: Program | None,
    settings: Sequence[Deployed],
    samples: Sequence[Sample],
    interface: Interface,
    eps: float,
    notes: Sequence[str] = (),
    planned: Program | None = None,
    repeats: Repeats | None = None,
) -> Verdict:
    """Level 2: the grown model's error against the float64 reference, and the original's own.

    Without a reference the original's run in the widest type stands for it. ``eps`` is that of the coarsest
    dtype in the model. ``planned`` is what the grown model computes in float64, where the plan says that
    it is not what the original does. ``repeats`` learns in which settings the original varies.
    """
    remarks, used = list(notes), []
    wrong: dict[str, list[str]] = {s.setting: [] for s in settings}
    exact = dict.fromkeys(wrong, True)
    base = reference or min(settings, key=lambda s: s.floor(eps)).original
    repeats, names = repeats or Repeats(), base.outputs
    errors: dict[tuple[str, str], Gathered] = {}
    scales = [0.0] * len(names)
    for sample in samples:
        expected, problem = attempt(base, sample)
        problem = problem or unusable(expected)
        if problem:
            remarks.append(f"{sample}: left out, {problem}")
            continue
        scales = [max(top, scale_of(e)) for top, e in zip(scales, expected, strict=True)]
        for s in settings:
            setting, limits = s.setting, [s.floor(eps) * top for top in scales]
            if setting in repeats.varying:
                continue
            own, problem = attempt(s.original, sample)
            fresh = not problem and repeats.new(setting)
            if fresh and repeats.vary(setting, s.original, sample, own, limits):
                continue
            if not problem and overflows(expected, own):
                problem = "the original overflows"
            problem = problem or shapes_differ(s.original.outputs, expected, own)
            if problem:
                remarks.append(f"{setting}, {sample}: left out, the original fails: {problem}")
                continue
            got, problem = attempt(s.grown, interface.inputs(sample))
            if not problem:
                got = interface.outputs(names, got)
                problem = shapes_differ(s.original.outputs, expected, got)
            wanted = expected
            if planned is not None and not problem:
                wanted, problem = attempt(planned, interface.inputs(sample))
                wanted = interface.outputs(names, wanted)
            far = problem or _far(expected, own, limits) or _far(wanted, got, limits)
            if far and repeats.vary(setting, s.original, sample, own, limits):
                continue
            if problem:
                wrong[setting].append(f"{setting}, {sample}: the grown model fails: {problem}")
                continue
            used.append(str(sample))
            rows = zip(s.original.outputs, names, expected, own, wanted, got, strict=True)
            for shown, name, e, o, w, g in rows:
                same = o.dtype == g.dtype and np.array_equal(o, g, equal_nan=o.dtype.kind == "f")
                exact[setting] &= same
                row = errors.setdefault((setting, shown), Gathered(name in interface.classes))
                row.add(e, o, w, g, scale_of(e))
    kept = [s for s in settings if s.setting not in repeats.varying]
    failures = [f for s in kept for f in wrong[s.setting]]
    remarks += [f"{name}: not checked: {why}" for name, why in repeats.varying.items()]
    floors = {s.setting: s.floor(eps) for s in kept}
    measures, statistics = [], []
    for (setting, name), row in errors.items():
        if setting not in floors:
            continue
        if not row.count:
            remarks.append(f"{setting}: {_EMPTY.format(name)}")
            continue
        granted = floors[setting] * row.scale
        limit = DEPLOYMENT_FACTOR * max(row.own, granted)
        measures.append(Measure(f"{name} ({setting})", row.worst, limit))
        statistics.append(row.finish(name, setting, granted))
    if not measures and not failures:
        why = next(iter(repeats.varying.values()), "") or "; ".join(remarks[-1:])
        return not_checked(why or "no input was valid; pass inputs=")
    verdict = judge(
        measures, exact=all(exact[s] for s in floors), failures=failures,
        inputs=list(dict.fromkeys(used)), notes=remarks, remark=", ".join(floors),
    )  # fmt: skip
    verdict.statistics = statistics
    return verdict


def eps_of(dtypes: Mapping[str, float], found: Sequence[str]) -> float:
    """The coarsest spacing among float dtypes; that of float32 where there is none."""
    return max((dtypes[d] for d in found if d in dtypes), default=dtypes["float32"])


__all__ = [
    "ALGEBRA_LIMIT",
    "DEPLOYMENT_FACTOR",
    "DEPLOYMENT_FLOOR",
    "Deployed",
    "Interface",
    "algebra",
    "attempt",
    "copy_floor",
    "deployment",
    "difference",
    "eps_of",
    "scale_of",
    "shapes_differ",
    "unusable",
    "usable",
    "worst",
]
