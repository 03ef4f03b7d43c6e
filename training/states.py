"""What optimizers keep for each weight, and how each kind of it goes through growth.

A rule says of one entry of an optimizer's state what it is:

    first      a mean of gradients, of the weight's shape: it follows the gradient, R m
    second     a mean or sum of squared gradients, of the weight's shape: (R * R) v
    largest    a maximum of absolute gradients, of the weight's shape: |R| u
    update     what moves the weight, without the unit of the gradient: only its place follows
    average    a mean of the weight itself: it grows as the weight does
    rows       means of squared gradients over the last axis, which stays with size one; ``columns`` over
               the axis before it. Both together stand for a second moment v = r c / mean(r)
               (Adafactor, arXiv:1804.04235), which is lifted and then averaged again; the axis that is
               averaged may also be dropped
    step       a count or a number, which stays

An optimizer whose state is not listed here is refused by name; ``register_state`` adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from meristem.rewrite.errors import MeristemError

# How a rule transforms with the gradient; the others are handled by name.
POWERS = {"first": 1.0, "second": 2.0, "largest": 1.0, "update": 0.0}
RULES = (*POWERS, "average", "rows", "columns", "step")

Rules = dict[str, str]

_ADAM: Rules = {
    "step": "step",
    "exp_avg": "first",
    "exp_avg_sq": "second",
    "max_exp_avg_sq": "second",
}
# By class, or by the full name of a class of a library that need not be there.
_KNOWN: dict[type | str, Rules] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.SparseAdam: _ADAM,
    torch.optim.NAdam: {**_ADAM, "mu_product": "step"},
    torch.optim.RAdam: _ADAM,
    torch.optim.Adamax: {"step": "step", "exp_avg": "first", "exp_inf": "largest"},
    torch.optim.SGD: {"momentum_buffer": "first"},
    torch.optim.RMSprop: {
        "step": "step",
        "square_avg": "second",
        "grad_avg": "first",
        "momentum_buffer": "update",
    },
    torch.optim.Adagrad: {"step": "step", "sum": "second"},
    torch.optim.Adadelta: {"step": "step", "square_avg": "second", "acc_delta": "update"},
    torch.optim.Adafactor: {
        "step": "step",
        "row_var": "rows",
        "col_var": "columns",
        "variance": "second",
    },
    torch.optim.Muon: {"momentum_buffer": "first"},
    "transformers.optimization.Adafactor": {
        "step": "step",
        "RMS": "step",
        "exp_avg": "first",
        "exp_avg_sq": "second",
        "exp_avg_sq_row": "rows",
        "exp_avg_sq_col": "columns",
    },
}


def register_state(kind: type[torch.optim.Optimizer], rules: Mapping[str, str]) -> None:
    """Say what an optimizer class keeps for each weight: its keys, each with one of ``RULES``.

    Raises MeristemError for a rule that is not one of them, and for rows without columns.
    """
    if ("rows" in rules.values()) != ("columns" in rules.values()):
        raise MeristemError(
            "rows and columns stand for a second moment together; name both, or neither"
        )
    odd = {r for r in rules.values() if r not in RULES}
    if odd:
        raise MeristemError(
            f"{', '.join(sorted(odd))}: no such rule of state; choose from {', '.join(RULES)}"
        )
    _KNOWN[kind] = dict(rules)


def rules_of(kind: type) -> Rules:
    """The rules of an optimizer class, or of the nearest class that it extends.

    Raises MeristemError where there are none.
    """
    for base in kind.__mro__:
        for key in (base, f"{base.__module__}.{base.__qualname__}"):
            if key in _KNOWN:
                return _KNOWN[key]
    known = ", ".join(sorted(k if isinstance(k, str) else k.__name__ for k in _KNOWN))
    raise MeristemError(
        f"what {kind.__name__} keeps for a weight is not known; known are {known}. Say it with "
        f"meristem.training.register_state({kind.__name__}, {{...}}), or start a new optimizer",
        optimizer=kind.__name__,
    )


def check_state(name: str, shape: tuple[int, ...], state: Mapping[str, Any], rules: Rules) -> None:
    """Raises MeristemError where a weight's state has an unknown entry, or one of the wrong shape."""
    for key, value in state.items():
        if key not in rules:
            raise MeristemError(
                f"the optimizer keeps {key!r} for {name}, and no rule says how it goes through growth; "
                "give one with meristem.training.register_state",
                weight=name,
                key=key,
            )
        expected = _expected(rules[key], shape)
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        if value is not None and expected and found not in expected:
            raise MeristemError(
                f"the optimizer's {key!r} of {name} has the shape {found}, and the weight has {shape}; "
                "the state does not belong to this model",
                weight=name,
                key=key,
            )


def _expected(rule: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shapes that a state may have; none where any is right."""
    if rule == "step":
        return ()
    if rule == "rows":
        return (*shape[:-1], 1), shape[:-1]
    if rule == "columns":
        return (*shape[:-2], 1, shape[-1]), (*shape[:-2], shape[-1])
    return (shape,)


__all__ = ["POWERS", "RULES", "Rules", "check_state", "register_state", "rules_of"]
