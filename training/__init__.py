"""What belongs to a run besides growth: optimizers, averages, schedules, triggers, cost; what is learned
on batches. Names are loaded at their first use; triggers, schedules and ledgers need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "register_state": "states",
    "carry_average": "weights",
    "carry_scheduler": "scheduler",
    "separate": "parts",
    # triggers
    "ActivationRank": "triggers", "AtFlops": "triggers", "AtStep": "triggers", "AtTokens": "triggers",
    "Decision": "triggers", "Every": "triggers", "GradMaxScore": "triggers", "Mixing": "triggers",
    "Plateau": "triggers", "Proportional": "triggers", "Score": "triggers", "Slope": "triggers",
    "Stacking": "triggers", "Trigger": "triggers", "Watch": "triggers", "activation_rank": "triggers",
    "mixing_time": "triggers", "proportional": "triggers", "stacking_tokens": "triggers",
    "trigger_from": "triggers",
    # what they measure
    "Curve": "curve", "fit_curve": "curve", "Activations": "measure", "growth_scores": "measure",
    # schedules
    "Schedule": "schedule", "Stage": "schedule", "supplies": "schedule", "Progress": "progress",
    "Overshoot": "rewarm", "Ramp": "rewarm", "Rewarmed": "rewarm", "Scaled": "rewarm", "WSD": "rewarm",
    # cost
    "Count": "flops", "count_step": "flops", "counted": "flops", "Ledger": "ledger", "Saving": "ledger",
    # search
    "Space": "study.space", "search": "study.search", "Found": "study.trials", "draw": "study.picture",
}  # fmt: skip

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'meristem.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"meristem.training.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
