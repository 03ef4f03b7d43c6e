"""Models with a cache, step by step: what is compared brought to ``verify.decoding``."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.rewrite.edits import EditScript
from meristem.verification_sides import Subject
from meristem.verification_steps import Step, recipes_of
from meristem.verify.decoding import Played, decoding
from meristem.verify.numeric import Deployed, Interface, eps_of
from meristem.verify.recipes import EPSILON
from meristem.verify.report import Verdict, not_checked
from meristem.verify.stepwise import stepwise


def decode(
    old: Subject,
    new: Subject,
    steps: Sequence[Step],
    reason: str,
    settings: Sequence[Deployed],
    interface: Interface,
    varies: str = "",
) -> Verdict | None:
    """The level "decoding": both models step by step, each with its own cache. None without a cache.

    ``reason`` says why the grown model is not known in float64, and is then left out there; ``varies`` why
    nothing can be compared, as the original gives other numbers each time.
    """
    model = stepwise(old.model.graph, old.fields())
    if model is None:
        return None
    if varies:
        return not_checked(varies)
    if not old.evaluates():
        return not_checked(f"the original cannot be evaluated in float64: {old.obstacle()}")
    if any(s.plan.approximate for s in steps):
        return not_checked("the plan does not preserve the function")
    grown = None
    if not reason:
        script = EditScript(literals=[e for s in steps for e in s.script.literals])
        grown = new.double(recipes_of(steps), script)
    reference = old.double()

    def cropped(played: Played) -> Played:
        names = reference.outputs
        whole = interface.outputs(names, played.whole)
        parts = [interface.outputs(names, p) for p in played.parts]
        return Played(whole, parts, played.problem)

    eps = eps_of(EPSILON, old.dtypes())
    return decoding(model, reference, grown, settings, interface.inputs, cropped, eps)


__all__ = ["decode"]
