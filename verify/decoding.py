"""Prefill and decode steps of models with a cache: both models go through one sequence with their own.

A sequence is taken whole, and again part by part, where every part reads the cache that the one before
left. Compared are what each part gives, original and grown, and what the parts of each model give
together against its own whole. Which integer input holds tokens and which positions no graph says: the
first reading under which the original's parts agree with its whole is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from meristem.rewrite.graph import Array
from meristem.verify.inputs import Sample, rounded
from meristem.verify.numeric import (
    ALGEBRA_LIMIT,
    DEPLOYMENT_FACTOR,
    Deployed,
    attempt,
    difference,
    scale_of,
    shapes_differ,
    usable,
)
from meristem.verify.programs import Program
from meristem.verify.report import Measure, Verdict, judge, not_checked
from meristem.verify.signature import Field
from meristem.verify.stepwise import SEQUENCE, TOTAL, Stepwise

BATCH, PREFILL, STEPS = 2, 5, 3
# The least past and the least part that are tried: none and one, then what tracing assumes of sizes.
_STARTS = ((0, 1), (2, 1), (0, 2), (2, 2))

Lift = Callable[[Sample], Sample]


@dataclass
class Played:
    """What one program gives: the whole, and every part; ``problem`` says what went wrong."""

    whole: list[Array] = field(default_factory=list)
    parts: list[list[Array]] = field(default_factory=list)
    problem: str = ""

    def joined(self, k: int, axis: int) -> Array:
        """The parts of a result one after another."""
        return np.concatenate([p[k] for p in self.parts], axis)


@dataclass(frozen=True)
class Play:
    """One sequence: values of all inputs at its whole length behind ``past`` positions, and where parts
    end."""

    model: Stepwise
    arrays: Mapping[str, Array]
    past: int
    ends: tuple[int, ...]

    def part(self, start: int, end: int) -> dict[str, Array]:
        """Inputs but for caches, for positions from ``start`` to ``end`` of the sequence."""
        out = {}
        cached = {c.given for c in self.model.caches}
        for name, a in self.arrays.items():
            if name in cached:
                continue
            for role, low, high in ((SEQUENCE, start, end), (TOTAL, 0, self.past + end)):
                axis = self.model.axis(name, role)
                if axis is not None:
                    a = np.take(a, np.arange(low, high), axis)
            out[name] = a
        return out

    def run(self, program: Program, lift: Lift, wholly: bool = True) -> Played:
        """Take the sequence whole (if ``wholly``) and in parts; ``lift`` makes inputs those of a grown
        model."""
        caches = {c.given: self.arrays[c.given] for c in self.model.caches}
        out, order = Played(), list(self.arrays)

        def call(label: str, arrays: Mapping[str, Array], own: Mapping[str, Array]) -> list[Array]:
            sample = lift(Sample(label, {n: {**arrays, **caches}[n] for n in order}))
            sample.arrays |= own
            got, out.problem = attempt(program, sample)
            if not out.problem and not usable(got):
                out.problem = "it gives no number"
            out.problem = out.problem and f"{label}: {out.problem.splitlines()[0]}"
            return got

        if wholly:
            out.whole = call("the whole sequence", self.part(0, self.ends[-1]), {})
        start, own = 0, {}
        for number, end in enumerate(self.ends):
            if out.problem:
                return out
            got = call(_name(number), self.part(start, end), own)
            if not out.problem:
                out.parts.append(got)
                own = {c.given: got[c.made] for c in self.model.caches}
            start = end
        return out


def _name(number: int) -> str:
    return f"decode step {number}" if number else "prefill"


def plays(model: Stepwise) -> Iterator[Play]:
    """Readings of the inputs and ways to cut a sequence, the plainest first."""
    indices = [f.name for f in model.fields if f.use == "index" and _is_stream(model, f)]
    others = [
        f.name
        for f in model.fields
        if f.use in ("mask", "integer") and f.dtype != "bool" and _is_stream(model, f)
    ]
    tokens = [(name,) for name in indices] + ([tuple(indices), ()] if len(indices) > 1 else [()])
    for (past, least), random, counted in product(
        _STARTS, tokens or [()], [tuple(others), ()][: 1 + bool(others)]
    ):
        first = model.fixed or PREFILL
        ends = [first]
        ends += [first + (i + 1) * (model.fixed or least) for i in range(STEPS)]
        rng = np.random.default_rng(len(ends))
        arrays = {
            f.name: _values(model, f, past, ends[-1], rng, f.name in random, f.name in counted)
            for f in model.fields
        }
        yield Play(model, arrays, past, tuple(ends))


def _is_stream(model: Stepwise, f: Field) -> bool:
    return model.axis(f.name, SEQUENCE) is not None and model.axis(f.name, TOTAL) is None


def _values(
    model: Stepwise,
    f: Field,
    past: int,
    count: int,
    rng: np.random.Generator,
    random: bool,
    counted: bool,
) -> Array:
    shape = model.shape(f, past, count, BATCH)
    sequence, total = model.axis(f.name, SEQUENCE), model.axis(f.name, TOTAL)
    if sequence is not None and total is not None:  # who sees whom
        rows = np.arange(count).reshape([-1 if a == sequence else 1 for a in range(len(shape))])
        columns = np.arange(past + count).reshape(
            [-1 if a == total else 1 for a in range(len(shape))]
        )
        seen = np.broadcast_to(columns <= rows + past, shape)
        if f.use == "float":
            lowest = -6e4 if f.dtype == "float16" else -1e30
            return rounded(np.where(seen, 0.0, lowest), f.dtype)
        return seen.astype(f.dtype)
    if f.use == "float":
        return rounded(
            np.zeros(shape) if total is not None else rng.standard_normal(shape), f.dtype
        )
    if random:
        return rng.integers(f.low, f.high + 1, shape).astype(f.dtype)
    if sequence is not None and (f.use == "index" or counted):
        at = np.arange(past, past + count) + (f.low if f.use == "index" else 0)
        if f.use == "index":
            at = np.minimum(at, f.high)
        row = at.reshape([-1 if a == sequence else 1 for a in range(len(shape))])
        return np.broadcast_to(row, shape).astype(f.dtype)
    return np.full(shape, f.low if f.use == "index" else 1, f.dtype)


@dataclass
class Rows:
    """Measurements as they come, what failed, and what is to be said."""

    measures: list[Measure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exact: bool = True

    def parts(
        self, play: Play, names: Sequence[str], setting: str, reference: Played, own: Played, got: Played,
        limit: Callable[[float, float], float],
    ) -> None:  # fmt: skip
        """Each part of the grown model against the reference's, and its parts against its own whole.

        ``limit`` is what is allowed where the original is off by so much, and the largest entry is so.
        """
        for k, axis in play.model.results.items():
            for number, (r, o, g) in enumerate(
                zip(reference.parts, own.parts, got.parts, strict=True)
            ):
                words = shapes_differ([names[k]], [r[k]], [g[k]])
                if words:
                    self.failures.append(f"{_name(number)} ({setting}): {words}")
                    return
                error, mine = difference(r[k], g[k]), difference(r[k], o[k])
                self.exact &= difference(o[k], g[k]) == 0.0
                what = f"{names[k]}, {_name(number)} ({setting})"
                self.measures.append(Measure(what, error, limit(mine, scale_of(r[k]))))
            if got.whole:
                error = difference(got.whole[k], got.joined(k, axis))
                mine = difference(own.whole[k], own.joined(k, axis))
                what = f"{names[k]}, steps against the whole ({setting})"
                self.measures.append(
                    Measure(what, error, limit(mine, scale_of(reference.whole[k])))
                )


def decoding(
    model: Stepwise,
    reference: Program,
    grown: Program | None,
    settings: Sequence[Deployed],
    lift: Lift,
    cropped: Callable[[Played], Played],
    eps: float,
) -> Verdict:
    """Both models on one sequence in parts, in float64 (``grown`` is the grown model there; None where
    that is not known) and in every setting.

    ``cropped`` takes the old coordinates of what the grown model gives.
    """
    play, base, disagreement = _reading(model, reference)
    if play is None:
        return not_checked(f"no sequence could be taken in parts: {disagreement}")
    rows, names = Rows(), reference.outputs
    if disagreement:
        rows.notes.append(disagreement)
    wholly = bool(base.whole)
    if grown is not None:
        got = cropped(play.run(grown, lift, wholly))
        if got.problem:
            rows.failures.append(f"float64: the grown model fails: {got.problem}")
        else:
            rows.parts(
                play, names, "float64", base, base, got, lambda _, scale: ALGEBRA_LIMIT * scale
            )
    for s in settings:
        own = play.run(s.original, lambda x: x, wholly)
        if own.problem:
            rows.notes.append(f"{s.setting}: left out, the original fails: {own.problem}")
            continue
        got = cropped(play.run(s.grown, lift, wholly))
        if got.problem:
            rows.failures.append(f"{s.setting}: the grown model fails: {got.problem}")
            continue
        floor = s.floor(eps)
        rows.parts(
            play, names, s.setting, base, own, got,
            lambda mine, scale, floor=floor: DEPLOYMENT_FACTOR * max(mine, floor * scale),
        )  # fmt: skip
    if not rows.measures and not rows.failures:
        return not_checked("; ".join(rows.notes) or "no setting runs the model in parts")
    lengths = ", ".join(str(b - a) for a, b in zip((0, *play.ends), play.ends, strict=False))
    inputs = [f"{BATCH} sequences of {play.ends[-1]} behind {play.past}, in parts of {lengths}"]
    return judge(
        rows.measures, exact=rows.exact, failures=rows.failures, inputs=inputs, notes=rows.notes,
        remark=f"{len(model.caches)} caches",
    )  # fmt: skip


def _reading(model: Stepwise, reference: Program) -> tuple[Play | None, Played, str]:
    """How the original is to be taken: the first reading under which its parts agree with its whole; else
    the first that runs, with what is off."""
    fallback: tuple[Play, Played, float] | None = None
    problem = "the model has no input of the sequence"
    for play in plays(model):
        got = play.run(reference, lambda x: x, model.fixed is None)
        if got.problem:
            problem = got.problem
            continue
        if not got.whole:
            return (
                play,
                got,
                "the sequence that goes in has one length, so there is no prefill to compare",
            )
        worst = max(
            (
                difference(got.whole[k], got.joined(k, axis)) / max(scale_of(got.whole[k]), 1e-300)
                for k, axis in model.results.items()
            ),
            default=0.0,
        )
        if worst <= ALGEBRA_LIMIT:
            return play, got, ""
        if fallback is None or worst < fallback[2]:
            fallback = play, got, worst
    if fallback is None:
        return None, Played(), problem
    play, got, worst = fallback
    words = f"the original's own steps are off its prefill by {worst:.1e} of the largest entry in float64"
    got.whole = []
    return play, got, words


__all__ = ["Play", "Played", "decoding", "plays"]
