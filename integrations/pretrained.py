"""A larger model of the same class of transformers, with its config, for everything that takes one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

import meristem
from meristem.integrations.config_search import solved
from meristem.integrations.growing import refuse_example
from meristem.integrations.rebuilding import Rebuild, rebuilt

# Configs with the right shapes whose function is compared before the search ends.
COMPARED = 20


@dataclass(frozen=True)
class Pretrained:
    """``module`` is of the class that grew; ``config`` says which of its fields hold other values now, and
    ``plan`` what grew. ``model`` is what ``meristem.grow`` gave, ``source`` what it started from."""

    module: Any
    config: dict[str, Any]
    model: meristem.Model
    source: meristem.Model

    @property
    def plan(self) -> meristem.Plan:
        assert self.model.plan is not None
        return self.model.plan


def grow_pretrained(
    module: Any,
    sizes_or_plan: Mapping[str, int | str] | meristem.Plan,
    example: Any,
    *,
    rebuild: Rebuild | None = None,
    **options: Any,
) -> Pretrained:
    """Grow a ``PreTrainedModel``; what comes out is one too, with ``save_pretrained`` and ``generate``.

    ``example`` is a batch of at least 2 as the model is called with: a dict, a tuple or a tensor. Unless
    ``rebuild`` makes the larger module, its config is solved: the fields that hold sizes are found by
    constructing the class on the meta device until every weight has its grown shape. Either way the larger
    module has to compute what the grown program computes. ``options`` are those of ``meristem.grow``;
    sizes grow with ``compensate="weights"``, since a class computes its constants itself.

    Raises what ``meristem.grow`` raises, CarrierError where the class cannot have these shapes, and
    NotPreserved where it can and computes something else.
    """
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise meristem.CarrierError(
            f"{type(module).__name__} is no model with a config; meristem.trace takes any nn.Module"
        )
    args, kwargs = refuse_example(example)
    if not isinstance(sizes_or_plan, meristem.Plan):
        options = {"compensate": "weights", **options}
    training = module.training
    with _no_cache(module.eval()) as caches:
        try:
            source = meristem.trace(module, args, kwargs)
            grown = meristem.grow(source, sizes_or_plan, **options)
            larger = _rebuilt(rebuild, module, grown, (args, kwargs))
        finally:
            module.train(training)
    _set_caches(larger, caches)
    larger.train(training)
    if getattr(module, "generation_config", None) is not None:
        larger.generation_config = copy.deepcopy(module.generation_config)
    return Pretrained(larger, _differences(module.config, larger.config), grown, source)


def _rebuilt(
    rebuild: Rebuild | None, module: Any, grown: meristem.Model, example: Any
) -> nn.Module:
    program, plan = grown.module(), grown.plan
    assert plan is not None
    if rebuild is not None:
        return rebuilt(rebuild, module, program, plan, example)
    shapes = {n: tuple(t.shape) for n, t in program.state_dict().items()}
    refusal: meristem.NotPreserved | None = None
    for count, (config, settings) in enumerate(solved(module, plan, shapes)):
        if count == COMPARED:
            break
        try:
            return rebuilt(_constructor(config), module, program, plan, example)
        except meristem.NotPreserved as error:
            refusal = refusal or meristem.NotPreserved(
                f"with {', '.join(map(str, settings))} {type(module).__name__} has the grown shapes and "
                f"computes something else: {error}"
            )
    assert refusal is not None
    raise refusal


def _constructor(config: Any) -> Rebuild:
    return lambda module, plan: type(module)(config)


@contextmanager
def _no_cache(module: nn.Module) -> Iterator[dict[str, bool]]:
    """Caches of keys and values are objects, which no traced program returns. Gives what the configs said,
    by the names of the modules whose they are: some modules have copies."""
    said = {
        name: m.config.use_cache
        for name, m in module.named_modules()
        if hasattr(getattr(m, "config", None), "use_cache")
    }
    _set_caches(module, dict.fromkeys(said, False))
    try:
        yield said
    finally:
        _set_caches(module, said)


def _set_caches(module: nn.Module, caches: Mapping[str, bool]) -> None:
    for name, m in module.named_modules():
        if name in caches:
            m.config.use_cache = caches[name]


def _differences(before: Any, after: Any) -> dict[str, Any]:
    was, now = before.to_dict(), after.to_dict()
    return {n: v for n, v in now.items() if n not in was or was[n] != v}


__all__ = ["Pretrained", "grow_pretrained"]
