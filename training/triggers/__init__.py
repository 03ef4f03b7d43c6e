"""When to grow: small objects that any loop can ask, and their form as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.at import AtFlops, AtStep, AtTokens
from meristem.training.triggers.base import CLOCKS, Decision, Trigger
from meristem.training.triggers.gradmax import GradMaxScore, Score
from meristem.training.triggers.mixing import Mixing, mixing_time
from meristem.training.triggers.periodic import Every
from meristem.training.triggers.plateau import Plateau
from meristem.training.triggers.proportional import Proportional, proportional
from meristem.training.triggers.rank import ActivationRank, activation_rank
from meristem.training.triggers.slope import Slope
from meristem.training.triggers.stacking import Stacking, stacking_tokens
from meristem.training.triggers.watch import Watch

TRIGGERS: dict[str, type[Trigger]] = {
    t.kind: t
    for t in (
        AtStep, AtTokens, AtFlops, Every, Proportional, Stacking, Mixing, Plateau, Slope,
        ActivationRank, GradMaxScore,
    )
}  # fmt: skip


def trigger_from(data: Mapping[str, Any]) -> Trigger:
    """A fresh trigger from its data: ``{"kind": "step", "at": 1000}``.

    Raises MeristemError where there is no such kind, or an option is unknown or missing.
    """
    options = dict(data) if isinstance(data, Mapping) else {}
    kind = options.pop("kind", None)
    if kind not in TRIGGERS:
        raise MeristemError(f"{data!r} is no trigger; give a kind of {', '.join(TRIGGERS)}")
    try:
        return TRIGGERS[kind](**options)
    except TypeError as error:
        known = [f for f in TRIGGERS[kind].__dataclass_fields__ if f != "state"]
        raise MeristemError(
            f"the options {sorted(options)} do not fit the trigger {kind!r}, which takes "
            f"{', '.join(known)}"
        ) from error


__all__ = [
    "CLOCKS", "TRIGGERS", "ActivationRank", "AtFlops", "AtStep", "AtTokens", "Decision", "Every",
    "GradMaxScore", "Mixing", "Plateau", "Proportional", "Score", "Slope", "Stacking", "Trigger", "Watch",
    "activation_rank", "mixing_time", "proportional", "stacking_tokens", "trigger_from",
]  # fmt: skip
