"""What a method needs besides sizes: other models, a loss, what was learned before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from meristem.method_depth import DEPTHS, depth_hooks
from meristem.model import Model
from meristem.rewrite.combine import is_depth
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.methods import METHODS, Chosen


@dataclass(frozen=True)
class Supplied:
    """``models`` to fuse with, a ``loss`` of a module, and ``maps`` that were learned before. ``blocks``
    are stacks that have grown by copies, all of whose blocks become combinations of so many first ones;
    ``batches`` are inputs to measure on. What a ``planned`` growth holds is taken, and not made again."""

    models: Sequence[Model] = ()
    loss: Callable[[Any], Any] | None = None
    maps: Mapping[str, str] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    batches: Iterable[Any] | None = None
    planned: bool = False

    @property
    def combines(self) -> bool:
        """Are there blocks to combine, so that a growth changes weights where no width grows?"""
        return bool(self.blocks) or any(map(is_depth, self.maps))

    def check(self, chosen: Chosen) -> None:
        """Raises MeristemError where something is supplied that the method does not use."""
        if not all(isinstance(m, Model) for m in self.models):
            raise MeristemError("models= is a list of models, of meristem.trace or meristem.load")
        if self.loss is not None and not callable(self.loss):
            raise MeristemError(f"loss= is a function of a module, not {self.loss!r}")
        if self.batches is not None and not isinstance(self.batches, Iterable):
            raise MeristemError(
                f"batches={self.batches!r} is no list; give tuples of inputs, or dicts by their names"
            )
        if self.batches is not None and depth_hooks(chosen).measures is None:
            fits = " and ".join(f'method="{n}"' for n, h in DEPTHS.items() if h.measures)
            raise MeristemError(
                f"batches= are for {fits}, to measure statistics on; methods that learn take loss="
            )
        for name, given, reads in (
            ("models= are", bool(self.models), attrgetter("fuses")),
            ("loss= is", self.loss is not None, attrgetter("batches")),
        ):
            if given and not reads(chosen.width):
                fits = " and ".join(f'method="{m.name}"' for m in METHODS.values() if reads(m))
                raise MeristemError(f"{name} for {fits}, not for method={chosen.width.name!r}")


NOTHING = Supplied()


__all__ = ["NOTHING", "Supplied"]
