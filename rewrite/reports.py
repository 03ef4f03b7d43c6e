"""The proof and its side effects in words, for plans."""

from __future__ import annotations

from collections import Counter

from meristem.rewrite.edits import EditScript
from meristem.rewrite.plan import Plan
from meristem.rewrite.planner import Solution


def describe(plan: Plan, solution: Solution, script: EditScript) -> None:
    """Fill a plan's proof, constants, locked twins and saddles."""
    met = Counter(f"{o.op.where} {o.why}: met" for o in solution.flow.obligations)
    plan.proof = [text if n == 1 else f"{text} ({n} blocks)" for text, n in met.items()]
    for e in script.literals:
        plan.constants.append(f"a constant of {e.slot.native} changes")
    plan.constants = [_short(t) for t in plan.constants]
    plan.saddles = sorted({f"{op.where}" for op, _ in solution.saddles})
    plan.locked = sorted(
        {
            e.weight.name
            for e in script.weights
            if any(f.kind == "copy" for f in e.expansion.fills.values())
        }
    )
    for choice, failures in solution.tried:
        used = ", ".join(sorted(set(choice.values())))
        plan.refusals.append(f"{used}: {failures[0].op.where} {failures[0].why}")


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
