"""How a module is called by loops that are not ours."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import meristem


class Caught:
    """The first call of a module with a batch of at least 2, kept as an example."""

    def __init__(self, module: nn.Module, drop: tuple[str, ...] = ()) -> None:
        self.example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._drop = drop
        self._handle = module.register_forward_pre_hook(self._catch, with_kwargs=True)

    def _catch(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        kwargs = {k: v for k, v in kwargs.items() if k not in self._drop and v is not None}
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if tensors and all(t.dim() == 0 or t.shape[0] > 1 for t in tensors):
            self.example = pytree.tree_map_only(
                torch.Tensor, lambda t: t.detach().cpu().clone(), (tuple(args), kwargs)
            )
            self._handle.remove()


class _Arguments:
    """Hands the program the arguments that it was traced with."""

    def __init__(self, names: tuple[str, ...], drop: tuple[str, ...]) -> None:
        self.names, self.drop = names, drop

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        kwargs = {k: v for k, v in kwargs.items() if k not in self.drop and v is not None}
        odd = [k for k in kwargs if k not in self.names]
        given = {*self.names[: len(args)], *kwargs}
        missing = [k for k in self.names if k not in given]
        if odd or missing:
            raise meristem.CarrierError(
                f"the grown program takes {', '.join(self.names)}, as in its example; "
                + (f"{', '.join(odd)} is unknown to it" if odd else f"{missing[0]} is missing")
                + "; give rebuild= to train your own class, which takes any of its arguments"
            )
        return args, kwargs


def as_called(module: nn.Module, drop: tuple[str, ...] = ()) -> nn.Module:
    """Let a grown program be called and saved as loops do that know only its class.

    Arguments in ``drop``, and those that are None, are not handed on. Names that share a tensor are saved
    once each, for files that cannot share.
    """
    names = tuple(inspect.signature(module.forward).parameters)
    module.register_forward_pre_hook(_Arguments(names, drop), with_kwargs=True)
    module.register_state_dict_post_hook(_apart)
    return module


def _apart(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    if any(isinstance(t, nn.Parameter) for t in state.values()):
        return  # the parameters themselves were asked for
    seen: set[int] = set()
    for name, tensor in list(state.items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        where = tensor.untyped_storage().data_ptr()
        if where in seen or not tensor.is_contiguous():
            state[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(where)


__all__ = ["Caught", "as_called"]
