"""How long to train the small model before it is stacked (G_stack, arXiv:2405.15319)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meristem.rewrite.errors import MeristemError
from meristem.training.triggers.at import reached
from meristem.training.triggers.base import Decision, Trigger, positive

# log10(d) = A log10(N) + B / log10(C) + D
A, B, D = 0.88, 163.27, -5.74


def stacking_tokens(parameters: float, flops: float) -> float:
    """Tokens d that the small model is trained on:

        log10(d) = 0.88 log10(N) + 163.27 / log10(C) - 5.74

    N are the parameters of the larger model without embeddings, C the FLOPs of the whole run (about 6 N D
    for D tokens). Source: arXiv:2405.15319, the guideline for the growth timing, a fit on models from
    hundreds of millions of parameters on. For 7e9 parameters and 2e12 tokens it gives 11.1e9.

    Raises MeristemError where the formula asks for more tokens than the budget pays for: the run is far
    below the sizes of the fit.
    """
    positive(parameters, "stacking_tokens: parameters")
    positive(flops, "stacking_tokens: flops")
    most = flops / (6 * parameters)
    tokens = (
        10 ** (A * math.log10(parameters) + B / math.log10(flops) + D) if flops > 10 else math.inf
    )
    if tokens >= most:
        raise MeristemError(
            f"the formula gives {tokens:.3g} tokens for the small model, but {flops:.3g} FLOPs are "
            f"{most:.3g} tokens of a model of {parameters:.3g} parameters in all; it was fitted on large "
            "models: use Proportional, Mixing or Slope for a small one",
            tokens=tokens,
        )
    return tokens


@dataclass(eq=False)
class Stacking(Trigger):
    """At the tokens of ``stacking_tokens``: ``parameters`` N of the larger model, ``budget`` C in FLOPs."""

    kind: ClassVar[str] = "stacking"
    firings: ClassVar[int | None] = 1

    parameters: float
    budget: float

    def __post_init__(self) -> None:
        self.at = stacking_tokens(self.parameters, self.budget)
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("tokens",)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        return reached(self, seen["tokens"], self.at, "tokens")


__all__ = ["Stacking", "stacking_tokens"]
