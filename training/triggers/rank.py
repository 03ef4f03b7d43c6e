"""Activations that use all of their width (NORTH*, arXiv:2202.08539)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.graph import Array
from meristem.training.triggers.base import Decision, Trigger, positive


def activation_rank(activations: Any, epsilon: float = 0.01, what: str = "activations") -> int:
    """rank_eps(H): how many singular values of H / sqrt(n) are above ``epsilon``.

    ``activations``: H [n, width], or [..., width] of which the rows are taken together; a tensor or an
    array. Raises MeristemError where it is not finite or has fewer rows than columns, for then the rows
    limit the rank.
    """
    h = _array(activations)
    h = h.reshape(-1, h.shape[-1]) if h.ndim > 1 else h
    if h.ndim != 2 or not h.size or len(h) < h.shape[1]:
        raise MeristemError(
            f"{what}: shape {list(h.shape)}; give at least as many rows as units, [n, width], or the rank "
            "is that of the batch"
        )
    if not np.isfinite(h).all():
        raise MeristemError(f"{what} are not finite; the run has diverged")
    return int((np.linalg.svd(h / math.sqrt(len(h)), compute_uv=False) > epsilon).sum())


@dataclass(eq=False)
class ActivationRank(Trigger):
    """Fires where phi = rank_eps(H) / width is above ``gamma``: the layer is used to its full width.

    ``activations`` of an update are H by place (``training.Activations`` collects them). ``where`` lists
    the places that are above, the fullest first; ``measured`` holds phi and the surplus of the rank,
    floor(rank - gamma width), which is how many units the paper adds. ``epsilon`` is the threshold for
    singular values of H / sqrt(n), 0.01 in the authors' code.
    """

    kind: ClassVar[str] = "rank"

    gamma: float = 0.95
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        positive(self.gamma, "ActivationRank: gamma")
        positive(self.epsilon, "ActivationRank: epsilon")
        if self.gamma >= 1:
            raise MeristemError(
                f"ActivationRank: gamma is {self.gamma:g}; a rank is never above 1 of it"
            )
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        return ("activations",)

    def decide(self, seen: Mapping[str, Any]) -> Decision:
        given = seen["activations"]
        if not isinstance(given, Mapping) or not given:
            raise MeristemError(
                "the trigger 'rank' has no data: activations= is a mapping of places to arrays [n, width]"
            )
        ranks = {
            p: activation_rank(h, self.epsilon, f"activations of {p}") for p, h in given.items()
        }
        widths = {p: int(_shape(h)[-1]) for p, h in given.items()}
        phi = {p: ranks[p] / widths[p] for p in given}
        full = sorted((p for p in phi if phi[p] > self.gamma), key=lambda p: (-phi[p], p))
        surplus = {p: math.floor(ranks[p] - self.gamma * widths[p] + 1e-9) for p in full}
        most = max(phi, key=lambda p: phi[p])
        reason = (
            f"{len(full)} of {len(phi)} places use more than {self.gamma:g} of their width; most used: "
            f"{most}, {ranks[most]} of {widths[most]}"
        )
        return Decision(
            bool(full), reason, phi[most], {"phi": phi, "surplus": surplus}, tuple(full)
        )


def _array(x: Any) -> Array:
    if hasattr(x, "detach"):
        x = x.detach().double().cpu().numpy()
    return np.asarray(x, np.float64)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


__all__ = ["ActivationRank", "activation_rank"]
