"""Where the function parts: models and plans brought to ``verify.locate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meristem.rewrite.edits import EditScript
from meristem.rewrite.graph import Array
from meristem.verification_sides import Subject
from meristem.verification_steps import Step, recipes_of
from meristem.verify.inputs import Sample
from meristem.verify.lifts import Lifts
from meristem.verify.locate import Located, locate
from meristem.verify.numeric import Interface, attempt
from meristem.verify.recipes import Unrounded
from meristem.verify.report import DIFFERS, Verdict

# Inputs that are tried until a value differs.
_TRIES = 4


def locate_in(
    levels: Mapping[str, Verdict],
    old: Subject,
    new: Subject,
    steps: Sequence[Step],
    samples: Sequence[Sample],
    interface: Interface,
    *,
    always: bool = False,
    varies: str = "",
) -> None:
    """Say in the levels that differ what the first value is that does; with ``always`` say how values
    agree in the first level that was checked.

    Old coordinates are found by the proofs of the ``steps``; without a plan values of equal models are
    compared by name. ``varies`` says why nothing can be compared, as the original gives other numbers
    each time.
    """
    differ = [v for n, v in levels.items() if v.word == DIFFERS and n != "training"]
    told = differ or [v for v in levels.values() if v.checked][:1] * always
    if not told:
        return
    why = varies or _obstacle(old, new, steps)
    if why:
        notes, layers = [f"not located: {why}"], []
    else:
        found, sample = _located(old, new, steps, samples, interface, bool(differ))
        notes, layers = found.notes(str(sample)), found.layers
    for verdict in told:
        verdict.notes += notes
        verdict.layers = layers


def _obstacle(old: Subject, new: Subject, steps: Sequence[Step]) -> str:
    """Why values on the way cannot be compared; empty where they can."""
    if type(old) is not type(new):
        return "the two models come from different carriers"
    if not (old.evaluates() and new.evaluates()):
        return f"{old.obstacle() or new.obstacle()}, so values on the way are not computed"
    if any(s.others for s in steps):
        return "several models were fused, and their values on the way are no single one's"
    if any(s.plan.approximate for s in steps):
        return "the plan does not preserve the function, so values on the way may differ"
    if not steps and old.shapes() != new.shapes():
        return "there is no plan, and the weights have other sizes"
    return ""


def _located(
    old: Subject,
    new: Subject,
    steps: Sequence[Step],
    samples: Sequence[Sample],
    interface: Interface,
    differs: bool,
) -> tuple[Located, Sample]:
    """The comparison on the first of the samples where a value differs, else on the first of all."""
    lifts = [Lifts(s.solution) for s in steps]

    def undo(name: str, grown: Array) -> Array | None:
        value: Array | None = grown
        for lift in reversed(lifts):
            value = lift.undo(name, value) if value is not None else None
        return value

    script = EditScript(literals=[e for s in steps for e in s.script.literals])
    reference: Any = old.double()
    grown: Any = new.double(_weights(new, steps), script)

    def ends(at: Sample) -> list[tuple[Array, Array]]:
        expected, wrong = attempt(reference, at)
        got, problem = attempt(grown, interface.inputs(at))
        if wrong or problem or len(got) != len(expected):
            return []
        return list(zip(expected, interface.outputs(reference.outputs, got), strict=True))

    first = None
    for sample in _likely(old, samples)[: _TRIES if differs else 1]:
        found = locate(
            old.model.graph,
            lambda watch, at=sample: reference.watched(at, watch),
            lambda watch, at=sample: grown.watched(interface.inputs(at), watch),
            undo,
            lambda at=sample: ends(at),
        )
        if first is None or found.first is not None or found.problem:
            first = found, sample
        if found.first is not None or found.problem:
            break
    assert first is not None
    return first


def _weights(new: Subject, steps: Sequence[Step]) -> Any:
    """Stored tensors without the roundings of their recipes; as they are where there is no plan."""
    if not steps:
        return None
    stored = {name: (array, dtype) for name, array, dtype in new.stored()}
    return Unrounded(recipes_of(steps), steps[-1].recipes(), stored.get)


def _likely(old: Subject, samples: Sequence[Sample]) -> list[Sample]:
    """Samples of the sizes that the model was traced with first: there the proof knows every axis."""
    shapes = {v.name: v.shape for v in old.model.graph.inputs}

    def traced(s: Sample) -> bool:
        return all(a.shape == shapes.get(n, a.shape) for n, a in s.arrays.items())

    return sorted(samples, key=lambda s: not traced(s))


__all__ = ["locate_in"]
