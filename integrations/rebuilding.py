"""The larger model as the user's own class, constructed with the larger sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import meristem

Rebuild = Callable[[Any, Any], nn.Module]

# As in the verification of deployment, whose room integrations do not read: a program may err this much
# more than the one it came from, and numbers below this many roundings of the largest one are noise.
FACTOR, ROUNDINGS = 4, 8


def from_config(**fields: str) -> Rebuild:
    """A ``rebuild`` for classes that are made from a config: the field of each kind of dimension.

        rebuild = from_config(intermediate_size="mlp", num_hidden_layers="layers")

    The module's ``config`` is copied, the fields get the sizes that the plan gives their kind (or their
    full name), and the module's class is called with it. Raises CarrierError where the plan changes what no
    field holds, or gives a field several sizes.
    """

    def rebuild(module: Any, plan: meristem.Plan) -> nn.Module:
        config = copy.deepcopy(module.config)
        wanted: dict[str, set[int]] = {}
        for change in plan.changes:
            keys = [f for f, k in fields.items() if k in (change.name, change.kind)]
            if not keys:
                raise meristem.CarrierError(
                    f"the plan grows {change.name} from {change.before} to {change.after}, and no field of "
                    f"the config is named for it; add one, as in from_config(field={change.kind!r})"
                )
            wanted.setdefault(keys[0], set()).add(change.after)
        for name, sizes in wanted.items():
            if len(sizes) > 1 or not hasattr(config, name):
                raise meristem.CarrierError(
                    f"the config's {name} "
                    + (
                        f"would have to be {sorted(sizes)} at once; grow all places alike"
                        if hasattr(config, name)
                        else "does not exist"
                    )
                )
            setattr(config, name, sizes.pop())
        return type(module)(config)

    return rebuild


def rebuilt(
    rebuild: Rebuild, module: nn.Module, program: nn.Module, plan: meristem.Plan, example: Any
) -> nn.Module:
    """What ``rebuild`` makes, with the grown weights, checked to compute what the grown program does.

    Raises CarrierError where it is no module with these names and shapes, NotPreserved where it computes
    something else.
    """
    larger = rebuild(module, plan)
    if not isinstance(larger, nn.Module) or larger is module:
        raise meristem.CarrierError(
            "rebuild= did not return a new module; construct one with the sizes of plan.changes"
        )
    weights = program.state_dict()
    own = larger.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [
        n for n in own if own[n].shape != weights[n].shape
    ]
    if odd:
        here, there = (
            tuple(side[odd[0]].shape) if odd[0] in side else "missing" for side in (own, weights)
        )
        raise meristem.CarrierError(
            f"what rebuild= returned has other weights than the plan: {odd[0]} is {here}, and {there} by "
            "the plan; construct it with the sizes of plan.changes",
            weights=odd,
        )
    like = next(iter(weights.values()))
    larger.to(like.device)
    for name, p in larger.named_parameters(remove_duplicate=False):
        p.data = p.data.to(weights[name].dtype)
    larger.load_state_dict(weights, strict=True)
    _carry_gradients(program, larger)
    _compare(program, larger, example)
    return larger


def _carry_gradients(program: nn.Module, larger: nn.Module) -> None:
    """Frozen parameters stay frozen."""
    flags = {n: p.requires_grad for n, p in program.named_parameters(remove_duplicate=False)}
    for name, p in larger.named_parameters(remove_duplicate=False):
        p.requires_grad_(flags[name])


def _compare(program: nn.Module, larger: nn.Module, example: Any) -> None:
    """The same numbers from both, as far as their type can say."""
    args, kwargs = example
    training = larger.training
    try:
        with torch.no_grad():
            ours = list(_numbers(larger.eval()(*args, **kwargs)))
            theirs = list(_numbers(program.eval()(*args, **kwargs)))
            exact = list(_numbers(_wide(program)(*_wide_inputs(args), **_wide_inputs(kwargs))))
    finally:
        larger.train(training)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise meristem.NotPreserved(
            f"what rebuild= returned gives {len(ours)} tensors of other shapes than the grown program's "
            f"{len(theirs)}; construct the class as the module that grew was"
        )
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        if not mine.is_floating_point() or mine.numel() == 0:
            continue
        scale = true.abs().max().item()
        noise = max(
            (other.double() - true.double()).abs().max().item(),
            ROUNDINGS * torch.finfo(mine.dtype).eps * scale,
        )
        error = (mine.double() - true.double()).abs().max().item()
        if not error <= FACTOR * noise:
            raise meristem.NotPreserved(
                f"what rebuild= returned computes something else: it differs by {error:.1e}, where the "
                f"grown program errs by {noise:.1e}. A constant that the class computes from its sizes is "
                "likely; grow without rebuild=, or other dimensions",
                error=error,
                noise=noise,
            )


def _numbers(x: Any) -> Iterator[torch.Tensor]:
    return (t for t in pytree.tree_leaves(x) if isinstance(t, torch.Tensor))


def _wide(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _wide_inputs(inputs: Any) -> Any:
    return pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs
    )


__all__ = ["Rebuild", "from_config", "rebuilt"]
