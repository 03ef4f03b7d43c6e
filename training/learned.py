"""Learning the maps of a growth: LiGO (arXiv:2303.00980).

Every grown weight is W' = B_out W A_in^t with one matrix C for each dimension (``rewrite.maps``), and in
stacks that grow W'_l = B_out (sum_j D_lj W_j) A_in^t with one matrix D for each kind of tensor
(``rewrite.combine``). The loss of the larger model is differentiated with respect to these C and D alone;
the small model's weights stay. Afterwards the products are folded into plain weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.graph import Array
from meristem.rewrite.lift import copies, generator, is_leaf
from meristem.rewrite.maps import start
from meristem.training.gradients import Loss, refuse_no_loss

# Combinations start from ones; beyond this learning has diverged.
LARGEST = 1e6


@dataclass(frozen=True)
class Settings:
    """``steps`` of Adam at ``rate``; C = start + U V of this ``rank``, or any C where it is zero.

    The start is that of replicas plus ``noise``, for replicas of one unit would learn alike; so it is for
    blocks. With ``tied`` all tensors of a stack have one D.
    """

    steps: int = 100
    rate: float = 0.01
    rank: int = 0
    noise: float = 0.03
    tied: bool = False


@dataclass(frozen=True)
class Made:
    """A weight of the larger model: its ``recipe``, and what that maps, in float64: one tensor, or with a
    ``key`` several that are summed with the entries of that D in ``row`` and ``columns``."""

    recipe: Expansion
    cores: Sequence[Array]
    key: str = ""
    row: int = 0
    columns: tuple[int, ...] = ()


def learn(
    module: nn.Module,
    made: Mapping[str, Made],
    sizes: Mapping[str, tuple[int, int]],
    depths: Mapping[str, Array],
    loss: Loss,
    settings: Settings,
    seed: int = 0,
) -> dict[str, Array]:
    """The matrices C [new - old, old] and D [new blocks, old blocks] by name.

    ``module`` is the larger model, ``made`` its parameters by name; ``sizes`` are old and new size of every
    dimension, ``depths`` what each D starts from, below zero where it has no entry. ``loss`` is called once
    in each step with a module that computes the larger model.

    Raises MeristemError where the loss is not one finite number that depends on the parameters.
    """
    maps: dict[str, _Map | _Depth] = {
        k: _Map(old, new, k, settings, seed) for k, (old, new) in sizes.items()
    }
    maps |= {k: _Depth(d, k, settings, seed) for k, d in depths.items()}
    leaves = [p for m in maps.values() for p in m.leaves]
    shared: dict[int, torch.Tensor] = {}
    for c in (c for m in made.values() for c in m.cores):
        shared.setdefault(id(c), torch.from_numpy(np.ascontiguousarray(c)))
    fixed = {n: [shared[id(c)] for c in m.cores] for n, m in made.items()}
    dtypes = {n: p.dtype for n, p in module.named_parameters(remove_duplicate=False)}
    optimizer = torch.optim.Adam(leaves, lr=settings.rate)
    for _ in range(settings.steps):
        matrices = {k: m.matrix() for k, m in maps.items()}
        weights = {
            n: _mapped(_summed(fixed[n], m, matrices), m.recipe, matrices).to(dtypes[n])
            for n, m in made.items()
        }
        value = loss(_With(module, weights))
        refuse_no_loss(value)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    found = {k: m.matrix().detach().numpy() for k, m in maps.items()}
    if not all(np.all(np.abs(c) < LARGEST) for c in found.values()):
        raise MeristemError(
            f"learning diverged at rate={settings.rate:g}; give a smaller one, as in "
            f'method="learned:rate={settings.rate / 10:g}"'
        )
    return found


class _Map:
    """One C: what it starts from, and what is learned of it."""

    def __init__(self, old: int, new: int, key: str, settings: Settings, seed: int) -> None:
        rng = generator(f"{seed}|{key}|learned")
        noise = rng.standard_normal((new - old, old))
        self.start = torch.from_numpy(start(old, new, key) + settings.noise * noise)
        rank = min(settings.rank, old, new - old)
        if rank:
            self.leaves = [
                torch.zeros(new - old, rank, dtype=torch.float64),
                torch.from_numpy(rng.standard_normal((rank, old))) / math.sqrt(old),
            ]
        else:
            self.leaves = [torch.zeros(new - old, old, dtype=torch.float64)]
        for leaf in self.leaves:
            leaf.requires_grad_()

    def matrix(self) -> torch.Tensor:
        return self.start + reduce(torch.matmul, self.leaves)


class _Depth:
    """One D: the order in which blocks are copied, and what is learned of it where it has entries."""

    def __init__(self, start: Array, key: str, settings: Settings, seed: int) -> None:
        noise = generator(f"{seed}|{key}|learned").standard_normal(start.shape)
        self.entries = torch.from_numpy(start >= 0)
        first = np.maximum(start, 0) + settings.noise * noise * (start >= 0)
        self.start = torch.from_numpy(first)
        self.leaves = [torch.zeros(start.shape, dtype=torch.float64, requires_grad=True)]

    def matrix(self) -> torch.Tensor:
        return self.start + self.leaves[0] * self.entries


class _With(nn.Module):
    """A module with other parameters, as the caller's loss sees it."""

    def __init__(self, module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.weights = module, weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.inner, self.weights, args, kwargs)


def _summed(
    cores: Sequence[torch.Tensor], made: Made, matrices: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """sum_j D_lj W_j, or the one tensor."""
    if not made.key:
        return cores[0]
    row = matrices[made.key][made.row]
    return torch.stack([row[j] * c for j, c in zip(made.columns, cores, strict=True)]).sum(0)


def _mapped(
    core: torch.Tensor, recipe: Expansion, matrices: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """``Expansion.apply`` after its core, differentiable."""
    out = core
    for axis, lift in enumerate(recipe.axes):
        if lift.maps:
            matrix = _matrix(lift.term, matrices)
            out = torch.tensordot(matrix, out, ([1], [axis])).movedim(0, axis)
    return out


def _matrix(term: Any, matrices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """``Lift.matrix``, differentiable."""
    if term[0] in ("write", "read"):
        kind, old, new, key = term
        whole = torch.cat([torch.eye(old, dtype=torch.float64), matrices[key]])
        return whole / torch.from_numpy(copies(old, new, key)) if kind == "read" else whole
    if is_leaf(term):
        return torch.eye(term[2], dtype=torch.float64)
    parts = [_matrix(p, matrices) for p in term[1:]]
    return reduce(torch.kron, parts) if term[0] == "prod" else torch.block_diag(*parts)


__all__ = ["Made", "Settings", "learn"]
