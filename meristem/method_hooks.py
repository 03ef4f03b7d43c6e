"""What methods of width do besides naming strategies: a table, with a file for each that does much.

A new method needs an entry in ``rewrite.methods``, and one here where its recipes are not those of its
strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meristem import method_gradmax, method_learned, method_masked
from meristem.rewrite.donors import from_models, from_next_blocks
from meristem.rewrite.edits import EditScript
from meristem.rewrite.methods import Method
from meristem.rewrite.planner import Solution
from meristem.supplied import Supplied

if TYPE_CHECKING:
    from meristem.widening import Widening

_ITSELF = (
    "the model is fused with itself, for no other one is given (models= in Python, --model on the "
    "command line)"
)

Gives = Callable[["Widening", Solution, Supplied], Mapping[str, Any]]
Changes = Callable[["Widening", EditScript, Method, Supplied], None]


@dataclass(frozen=True)
class Hooks:
    """``gives`` says with the proof at hand what fills free entries, as ``given`` does; ``changes``
    replaces recipes by those of the method, and says in the plan what is approximate."""

    gives: Gives | None = None
    changes: Changes | None = None


def _from_next(growth: Widening, script: EditScript, _: Method, __: Supplied) -> None:
    growth.plan.approximate += from_next_blocks(script, growth.model.stacks.values())


def _from_models(growth: Widening, script: EditScript, _: Method, supplied: Supplied) -> None:
    others = [m.graph for m in supplied.models]
    if not others:
        growth.plan.notes.append(_ITSELF)
    growth.plan.approximate += from_models(script, growth.model.graph, others)


HOOKS: dict[str, Hooks] = {
    "aki": Hooks(changes=_from_next),
    "fuse": Hooks(changes=_from_models),
    "gradmax": Hooks(gives=method_gradmax.gives),
    "learned": Hooks(changes=method_learned.changes),
    "masked": Hooks(changes=method_masked.changes),
}


def hooks(chosen: Method) -> Hooks:
    """What a method does besides its strategies; most do nothing."""
    return HOOKS.get(chosen.name, Hooks())


__all__ = ["HOOKS", "Hooks", "hooks"]
