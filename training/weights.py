"""Other weights of the same names through a growth: the average of a run, a teacher, a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from meristem.rewrite.errors import MeristemError
from meristem.rewrite.graph import Array
from meristem.rewrite.made import made
from meristem.training.lineage import Lineage

Tensors = Mapping[str, torch.Tensor]


def carry_weights(
    lineage: Lineage, tensors: Tensors, like: Tensors, donor: Callable[[str], Array] | None = None
) -> dict[str, torch.Tensor]:
    """What ``tensors``, weights by the source's names, become by the recipes of a growth.

    ``like`` is the state dict of the grown model; the result has its names, shapes and types. What has no
    source (gates, routers) is as it is there. ``donor`` reads a weight of a model that was fused with the
    source. The function of these weights goes through growth as that of the model does.

    Raises MeristemError where a tensor is missing or of another shape.
    """
    done: dict[str, Array] = {}

    def wide(first: str) -> Array:
        names = [n for n, f in lineage.names.items() if f == first and n in tensors]
        if not names:
            raise MeristemError(
                f"the weights have no {first}, which the source has; give weights of the same names",
                weight=first,
            )
        return np.asarray(tensors[names[0]].detach().cpu().double().numpy())

    def read(name: str) -> Array:
        if name in lineage.names:
            return wide(lineage.names[name])
        if donor is None:
            raise MeristemError(f"the recipe reads {name} of another model, which is not at hand")
        return donor(name)

    def grown(first: str) -> Array:
        recipe = lineage.recipe(first)
        if recipe is None:
            return wide(first)
        if first not in done:
            old = wide(first)
            if tuple(old.shape) != recipe.old_shape:
                raise MeristemError(
                    f"{first} has the shape {old.shape}, and {recipe.old_shape} in the model that grew",
                    weight=first,
                )
            done[first] = recipe.apply(old, donors=[read(d) for d in recipe.donors])
        return done[first]

    out: dict[str, torch.Tensor] = {}
    for name, own in like.items():
        source, how = lineage.plan.clones.get(name, (name, "copy"))
        if not source or (own.dtype.is_floating_point is False and source not in tensors):
            out[name] = own.detach().clone()
            continue
        array = grown(lineage.names[source])
        array = array if how == "copy" else made(how).apply(array)
        if array.shape != tuple(own.shape):
            raise MeristemError(
                f"{source} becomes {array.shape}, and {name} has the shape {tuple(own.shape)}; give "
                "weights of the model that grew",
                weight=name,
            )
        out[name] = torch.from_numpy(np.ascontiguousarray(array)).to(own.device, own.dtype)
    return out


def carry_average(averaged: AveragedModel, module: nn.Module, weights: Tensors) -> AveragedModel:
    """The average of a run over the grown ``module``: ``weights`` are those of the old one, carried.

    How it averages and how often it did stay. Raises MeristemError where the weights do not fit.
    """
    out = AveragedModel.__new__(AveragedModel)
    nn.Module.__init__(out)
    out.module = deepcopy(module)
    missing = out.module.load_state_dict(dict(weights), strict=False)
    if missing.unexpected_keys or missing.missing_keys:
        name = [*missing.unexpected_keys, *missing.missing_keys][0]
        raise MeristemError(
            f"the average does not fit the grown module: {name} is on one side only"
        )
    out.register_buffer("n_averaged", averaged.n_averaged.detach().clone())
    rest: dict[str, Any] = {
        k: v for k, v in vars(averaged).items() if k in ("avg_fn", "multi_avg_fn", "use_buffers")
    }
    vars(out).update(rest)
    return out.train(averaged.training)


__all__ = ["carry_average", "carry_weights"]
