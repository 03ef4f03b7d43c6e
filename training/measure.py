"""What triggers measure in a module that trains: activations, and the gradient that new units could get."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn

from meristem.rewrite.errors import MeristemError
from meristem.training.gradients import Loss, refuse_no_loss
from meristem.training.triggers.gradmax import Score


class Activations:
    """Keeps the last ``rows`` rows of the outputs of submodules, by name, while it is open.

    with Activations(module, ["blocks.0.mlp.up"], rows=512) as seen:
        module(batch)
    trigger.update(activations=seen.rows)

    An output [..., width] gives as many rows as its other axes hold; for channels that are axis 1 of images
    give ``axis=1``. Raises MeristemError where a name is none.
    """

    def __init__(
        self, module: nn.Module, names: Iterable[str], rows: int = 1024, axis: int = -1
    ) -> None:
        self.modules = {n: submodule(module, n) for n in names}
        self.count, self.axis = rows, axis
        self.rows: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Activations:
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                raise MeristemError(f"{name} returns no tensor; name a submodule that does")
            flat = output.detach().movedim(self.axis, -1).flatten(0, -2)
            # Spread over the batch: rows of one sequence are alike.
            step = max(1, len(flat) // self.count)
            self.rows[name] = flat[::step][: self.count].clone()

        return keep


def growth_scores(
    module: nn.Module, pairs: Mapping[str, tuple[str, str]], loss: Loss
) -> dict[str, Score]:
    """GradMax's score of places where units could be added, on one call of ``loss``.

    ``pairs`` gives for each place the linear layer that writes the units and the one that sums them. With
    h the input of the first and g the gradient at the output of the second, the gradient of a linear path
    past both is M = sum g h^t (with a bias, h has an entry 1). sigma_i are its singular values: a new
    unit f that is summed by a unit vector gets a gradient of f'(0) sigma_i. The scores are c^2 sigma_i^2,
    where c is the mean length of what sums an old unit, and f'(0) counts as 1. Source: arXiv:2201.05125.

    The gradients, the mode and the weights of the module stay as they are. Raises MeristemError where a
    place does not consist of two linear layers, or the loss does not reach it.
    """
    layers = {p: _linear_pair(module, p, names) for p, names in pairs.items()}
    sums: dict[str, torch.Tensor] = {}
    inputs: dict[str, list[torch.Tensor]] = {p: [] for p in layers}
    handles: list[Any] = []

    def watch(place: str, up: nn.Linear, down: nn.Linear) -> None:
        def keep(_module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            x = given[0].detach().flatten(0, -2) if given[0].ndim > 1 else given[0].detach()[None]
            inputs[place].append(
                torch.cat([x, x.new_ones(len(x), 1)], 1) if up.bias is not None else x
            )

        def add(_module: nn.Module, _given: Any, output: torch.Tensor) -> None:
            h = inputs[place].pop()

            def gradient(g: torch.Tensor) -> None:
                own = g.reshape(-1, g.shape[-1]).double().T @ h.double()
                sums[place] = sums[place] + own if place in sums else own

            if output.requires_grad:
                output.register_hook(gradient)

        handles.append(up.register_forward_pre_hook(keep))
        handles.append(down.register_forward_hook(add))

    for place, (up, down) in layers.items():
        watch(place, up, down)
    parameters = {
        p: [x for x in up.parameters() if x.requires_grad] for p, (up, _) in layers.items()
    }
    flat = [x for xs in parameters.values() for x in xs]
    try:
        value = loss(module)
        refuse_no_loss(value)
        # autograd.grad leaves .grad of every parameter alone, also in the middle of an accumulation.
        got = torch.autograd.grad(value, flat, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    norms = {
        id(x): 0.0 if g is None else float(g.double().square().sum())
        for x, g in zip(flat, got, strict=True)
    }
    out = {}
    for place, (_, down) in layers.items():
        if place not in sums:
            raise MeristemError(f"the loss does not reach {place}; give a loss that runs it")
        length = float(down.weight.detach().double().norm(dim=0).mean())
        sigma = torch.linalg.svdvals(sums[place])
        values = tuple(float(x) for x in (length * sigma).square())
        present = math.fsum(norms[id(x)] for x in parameters[place])
        out[place] = Score(values, present)
    return out


def submodule(module: nn.Module, name: str) -> nn.Module:
    """A submodule by its name; MeristemError with the nearest names where there is none."""
    try:
        return module.get_submodule(name)
    except AttributeError:
        import difflib

        near = difflib.get_close_matches(name, [n for n, _ in module.named_modules() if n], 4, 0.3)
        raise MeristemError(
            f"the module has no submodule {name!r}"
            + (f"; nearest: {', '.join(near)}" if near else "")
        ) from None


def _linear_pair(module: nn.Module, place: str, names: Any) -> tuple[nn.Linear, nn.Linear]:
    if not (isinstance(names, (tuple, list)) and len(names) == 2):
        raise MeristemError(
            f"{place}: give two names, of what writes the units and of what sums them"
        )
    up, down = (submodule(module, n) for n in names)
    if not (isinstance(up, nn.Linear) and isinstance(down, nn.Linear)):
        raise MeristemError(
            f"{place}: {names[0]} is a {type(up).__name__} and {names[1]} a {type(down).__name__}; scores "
            "are measured between two linear layers"
        )
    return up, down


__all__ = ["Activations", "growth_scores", "submodule"]
