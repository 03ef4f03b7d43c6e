"""The inputs of a verification: drawn from the signature, or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.graph import Array
from meristem.verification_sides import Subject
from meristem.verify.inputs import STYLES, Sample, choose_sizes, draw, fixed_sizes, rounded
from meristem.verify.numeric import attempt, usable
from meristem.verify.signature import Field
from meristem.verify.sources import read_inputs

_RANDOM = 2  # random inputs at each size for level 1
_DEPLOYED = 8  # the least number of inputs for level 2


@dataclass
class Samples:
    """Inputs for the levels: all for algebra, ``plain`` ones of ordinary size for the others.

    ``expected`` are the outputs that a source says, by the label of their sample.
    """

    every: list[Sample]
    plain: list[Sample]
    notes: list[str]
    expected: dict[str, tuple[Array, ...]] = field(default_factory=dict)

    def narrowed(self) -> Samples:
        """The same with floats that bfloat16 holds (and float16 but for the smallest), so that copies
        in other types start from the same numbers."""
        done = {id(s): _narrow(s) for s in (*self.every, *self.plain)}
        every, plain = ([done[id(s)] for s in row] for row in (self.every, self.plain))
        return Samples(every, plain, self.notes, self.expected)


def _narrow(sample: Sample) -> Sample:
    arrays = {
        n: rounded(a, "bfloat16").astype(a.dtype) if a.dtype == "float32" else a
        for n, a in sample.arrays.items()
    }
    return Sample(sample.label, arrays, sample.sizes)


def drawn(old: Subject, sizes: Mapping[str, int] | None = None, seed: int = 0) -> Samples:
    """Random and structured inputs at two sizes of every dynamic axis; ``sizes`` fix some of them.

    Raises SelectorError and SizeError where a size names no dynamic axis, or one that it cannot have.
    """
    fields = old.fields()
    fixed = fixed_sizes(fields, old.ranges(), sizes or {})

    def problem(sample: Sample) -> str:
        got, wrong = attempt(old.double(), sample)
        return wrong or ("" if usable(got) else "the original gives no number there")

    runs = problem if old.evaluates() else lambda _: ""
    found = choose_sizes(fields, old.ranges(), runs, fixed)
    every, plain = [], []
    for at in found.chosen:
        count = -(-_DEPLOYED // len(found.chosen))
        random = [draw(fields, at, "random", seed + i) for i in range(count)]
        structured = [draw(fields, at, style) for style in STYLES]
        every += random[:_RANDOM] + structured
        plain += random
    example = None if fixed else old.example()
    if example is not None:
        every.append(example)
        plain.append(example)
    return Samples(every, plain, found.notes)


def given(old: Subject, inputs: Any) -> Samples:
    """The caller's inputs, which serve every level.

    Raises CarrierError where a source cannot be read or holds what the model does not take.
    """
    samples, expected = [], {}
    for one in read_inputs(inputs):
        sample = old.sample(one.values, one.label)
        if sample.label in {s.label for s in samples}:
            sample.label += f" ({len(samples)})"
        samples.append(sample)
        if one.expected is not None:
            expected[sample.label] = one.expected
    if not samples:
        raise CarrierError("inputs= is empty; give a list of tuples or dicts, or leave it out")
    notes = [f"{len(samples)} inputs were given"]
    if expected:
        notes.append(f"{len(expected)} of them say which outputs are expected")
    return Samples(samples, samples, notes, expected)


def same_inputs(old: Subject, new: Subject) -> None:
    """Raise CarrierError where the two models do not take the same inputs.

    By name where the names are the same, else in their order; sizes may differ where the interface grew.
    """
    a, b = old.fields(), new.fields()
    if len(a) == len(b):
        by_name = {f.name: f for f in b}
        pairs = (
            [(f, by_name[f.name]) for f in a]
            if by_name.keys() == {f.name for f in a}
            else zip(a, b, strict=True)
        )
        if all(f.dtype == g.dtype and len(f.shape) == len(g.shape) for f, g in pairs):
            return
    raise CarrierError(
        f"the two models take different inputs: {_listed(a)} and {_listed(b)}; compare models of one "
        "interface",
        inputs=[f.name for f in a],
    )


def _listed(found: list[Field]) -> str:
    return ", ".join(f"{f.name} {f.dtype}({', '.join(map(str, f.shape))})" for f in found)


__all__ = ["Samples", "drawn", "given", "same_inputs"]
