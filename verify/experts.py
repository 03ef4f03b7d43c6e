"""Level 3 for mixtures made of MLPs: which experts learned, and whether they part.

Experts begin equal, so that no score changes the result and the router's first gradient is zero. Each
token weighs them unequally, so their gradients differ, they part at the first step, and the router learns
from the second. An expert that no token chose in the inputs of this check has no gradient, which says
nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from meristem.rewrite.graph import Array

Gradients = Mapping[str, Array]


@dataclass
class Experts:
    """What was seen: ``idle`` names need no gradient, ``late`` ones have theirs from the second step on."""

    idle: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def watch(
    mixtures: Mapping[str, Sequence[Sequence[str]]],
    steps: Sequence[Gradients],
    weights: Mapping[str, Array],
    nothing: float,
    twin: float,
) -> Experts:
    """``mixtures`` has each expert's weights by router; ``steps`` the gradients step by step, ``weights``
    what they became. Below ``nothing`` of the largest a gradient is rounding, ``twin`` is how nearly equal
    twins are."""
    out = Experts()
    floors = [nothing * max(float(np.abs(g).max(initial=0)) for g in s.values()) for s in steps]

    def alive(name: str, upto: int = len(steps)) -> bool:
        pairs = zip(steps[:upto], floors, strict=False)
        return name in steps[0] and any(np.abs(s[name]).max(initial=0) > f for s, f in pairs)

    def alive_at(step: int, expert: Sequence[str]) -> bool:
        """Did some token choose an expert in this step?"""
        found = steps[step]
        return any(n in found and np.abs(found[n]).max(initial=0) > floors[step] for n in expert)

    for router, experts in mixtures.items():
        active = [e for e in experts if any(map(alive, e))]
        idle = [e for e in experts if e not in active]
        if len(active) < 2:
            out.failures.append(f"fewer than two experts of {router} receive a gradient")
            continue
        if idle:
            out.idle.update(n for e in idle for n in e)
            out.notes.append(
                f"{len(idle)} of {len(experts)} experts of {router} were chosen by no token of these inputs"
            )
        once = [e for e in active if sum(alive_at(i, e) for i in range(len(steps))) < 2]
        missed = {n for e in once for n in e if not alive(n)}
        if missed:
            out.idle |= missed
            out.notes.append(
                f"experts of {router} were chosen in one step alone, in which weights behind zeros have no "
                f"gradient: {', '.join(sorted(missed))}"
            )
        if alive(router) and not alive(router, 1):
            out.notes.append(
                f"{router} learns from the second step on, when experts are no longer equal"
            )
        for a, b in combinations(active, 2):
            if _equal(a, b, weights, twin):
                out.failures.append(
                    f"two experts of {router} stay equal under training: {a[0]}, {b[0]}"
                )
                break
    return out


def _equal(a: Sequence[str], b: Sequence[str], weights: Mapping[str, Array], twin: float) -> bool:
    """Have the weights of two experts moved alike?"""
    for x, y in zip(a, b, strict=True):
        if x in weights and y in weights:
            u, v = weights[x], weights[y]
            if float(np.abs(u - v).max(initial=0)) > twin * float(np.abs(u).max(initial=0)):
                return False
    return True
