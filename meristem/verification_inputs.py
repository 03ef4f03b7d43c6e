"""The inputs of a verification: drawn from the signature, or given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meristem.rewrite.errors import CarrierError, SizeError
from meristem.rewrite.graph import Array
from meristem.verification_sides import Subject
from meristem.verify.inputs import STYLES, Sample, choose_sizes, draw, fixed_sizes, rounded
from meristem.verify.numeric import Interface, attempt, usable
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


def check_drawn(inputs: Any, sizes: Any, seed: int) -> None:
    """Raise SizeError where something is said of drawn inputs that has no meaning, or none are drawn."""
    if inputs is not None and (sizes or seed):
        said = " and ".join(n for n, x in (("sizes", sizes), ("seed", seed)) if x)
        raise SizeError(
            f"{said} would be of inputs that are drawn, and inputs are given; leave either out"
        )
    if sizes is not None and not isinstance(sizes, Mapping):
        raise SizeError(f'sizes={sizes!r} is no mapping; give one such as {{"sequence": 2048}}')
    for name, size in (sizes or {}).items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise SizeError(
                f"size {name}={size!r} is no whole number; give one such as 4", size=size
            )


def same_interface(old: Subject, new: Subject, interface: Interface, reason: str = "") -> None:
    """Raise CarrierError where the two models do not take the same inputs, or give as many outputs.

    By name where the names are the same, else in their order. A size is the original's, but for what
    ``interface`` says of axes that grew; a dynamic axis goes with any. ``reason`` says why no
    plan is known.
    """
    why = f" ({reason})" if reason else ""
    a, b = old.fields(), new.fields()
    by_name = {f.name: f for f in b}
    named = by_name.keys() == {f.name for f in a}
    pairs = [(f, by_name[f.name] if named else g) for f, g in zip(a, b, strict=False)]
    if len(a) != len(b) or not all(_fits(f, g, interface) for f, g in pairs):
        raise CarrierError(
            f"the two models take different inputs: {_listed(a)} and {_listed(b)}; compare models of one "
            f"interface, or give the plan of a growth that changed it{why}",
            inputs=[f.name for f in a],
        )
    gives, other = ([n for n, _ in s.model.graph.outputs] for s in (old, new))
    if type(old) is type(new) and len(gives) != len(other):
        raise CarrierError(
            f"the two models give different outputs: {', '.join(gives)} and {', '.join(other)}; compare "
            "models of one interface",
            outputs=gives,
        )


def _fits(f: Field, g: Field, interface: Interface) -> bool:
    """Does the grown model's input ``g`` take what ``f`` does, lifted where it grew?"""
    wanted = list(f.shape)
    for e in interface.edits:
        if not e.output and e.name == f.name:
            wanted[e.axis] = e.size
    pairs = zip(wanted, g.shape, strict=False)
    same = all(m == n for m, n in pairs if isinstance(m, int) and isinstance(n, int))
    return f.dtype == g.dtype and len(f.shape) == len(g.shape) and same


def _listed(found: list[Field]) -> str:
    return ", ".join(f"{f.name} {f.dtype}({', '.join(map(str, f.shape))})" for f in found)


__all__ = ["Samples", "check_drawn", "drawn", "given", "same_interface"]
