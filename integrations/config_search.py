"""The config of a larger model, solved from the sizes of a plan and the shapes of the grown weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import meristem

Shapes = Mapping[str, tuple[int, ...]]
Path = tuple[str, ...]

# Fields that are tried together: classes that accept four sizes only at once are rare.
TOGETHER = 3
# Constructions on the meta device before the search is given up.
MOST = 4000


@dataclass(frozen=True)
class Setting:
    """One change of a config: ``path`` leads to the field, through configs inside it; ``lists`` become
    longer with it."""

    path: Path
    value: Any
    lists: tuple[tuple[Path, tuple[Any, ...]], ...] = ()

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}={self.value}"


def solved(
    module: Any, plan: meristem.Plan, shapes: Shapes
) -> Iterator[tuple[Any, tuple[Setting, ...]]]:
    """(config, what was set in it) of every config with which the module's class has these weights.

    ``shapes`` are those of the grown weights by name. A field is tried where it holds the size of a
    dimension before growth, or nothing (a size that is computed unless it is given); lists with an entry
    for each block grow with the blocks. Configs with the fewest changes come first: they agree in shapes,
    and need not in function, since the number of heads, say, may be in no shape. Raises CarrierError where
    no config gives these shapes; the fact ``nearest`` is what was set in the one that came nearest, and
    ``weights`` are those that differ with it.
    """
    search = _Search(module, plan, shapes)
    found = search.climb()
    yield search.config(found), found
    for more in search.silent(found):
        yield search.config(more), more


class _Search:
    def __init__(self, module: Any, plan: meristem.Plan, shapes: Shapes) -> None:
        self.module, self.shapes = module, dict(shapes)
        sizes = sorted({(c.kind, c.before, c.after) for c in plan.changes})
        fields = list(_fields(module.config))
        self.settings = [
            s for at in fields for kind, b, a in sizes for s in _of(at, kind, b, a, fields)
        ]
        self.unset = [p for p, v in fields if v is None]
        self.seen: dict[tuple[Setting, ...], frozenset[str]] = {}

    def config(self, settings: tuple[Setting, ...]) -> Any:
        """A copy of the module's config with these settings."""
        config = copy.deepcopy(self.module.config)
        for setting in settings:
            lists = [(path, list(entries)) for path, entries in setting.lists]
            for path, value in ((setting.path, setting.value), *lists):
                holder = config
                for name in path[:-1]:
                    holder = getattr(holder, name)
                setattr(holder, path[-1], value)
        return config

    def climb(self) -> tuple[Setting, ...]:
        """The settings that make all shapes right, found by those that make the most of them right next."""
        chosen: tuple[Setting, ...] = ()
        while wrong := self.wrong(chosen):
            better = self._next(chosen, wrong)
            if better is None:
                raise self._refusal(chosen, wrong)
            chosen = better
        return chosen

    def _next(
        self, chosen: tuple[Setting, ...], wrong: frozenset[str]
    ) -> tuple[Setting, ...] | None:
        """More settings that leave fewer weights wrong: the best of the fewest.

        Fields that hold nothing are the second resort, since they name no size of today: each is tried with
        the sizes of the weights that are wrong.
        """
        sizes = sorted({n for name in wrong for n in self.shapes.get(name, ())})
        unset = [Setting(path, n) for path in self.unset for n in sizes]
        resorts = [(self.settings, count) for count in range(1, TOGETHER + 1)]
        for options, count in (*resorts, (unset, 1)):
            steps = self._more(chosen, options, count)
            best = min(steps, key=lambda step: len(self.wrong(step)), default=None)
            if best is not None and len(self.wrong(best)) < len(wrong):
                return best
        return None

    def _refusal(self, chosen: tuple[Setting, ...], wrong: frozenset[str]) -> meristem.CarrierError:
        first = min(wrong & self.shapes.keys(), default=min(wrong))
        return meristem.CarrierError(
            f"no config of {type(self.module).__name__} gives the shapes of the grown weights: "
            f"{len(wrong)} of {len(self.shapes)} differ"
            + (f" with {', '.join(map(str, chosen))}" if chosen else "")
            + f", as {first}, which is {self.shapes.get(first, 'none')} by the plan. The class computes "
            "that size from others: grow those too, ask for fewer places (mlp@*layer*), or give rebuild=, "
            "which makes the larger module",
            nearest=tuple(map(str, chosen)),
            weights=sorted(wrong),
        )

    def silent(self, chosen: tuple[Setting, ...]) -> Iterator[tuple[Setting, ...]]:
        """With further settings that leave every shape as it is."""
        for count in range(1, TOGETHER + 1):
            for more in self._more(chosen, self.settings, count):
                if not self.wrong(more):
                    yield more

    def _more(
        self, chosen: tuple[Setting, ...], options: list[Setting], count: int
    ) -> Iterator[tuple[Setting, ...]]:
        taken = {s.path for s in chosen}
        free = [s for s in options if s.path not in taken]
        for group in itertools.combinations(free, count):
            if len({s.path for s in group}) == count:
                yield (*chosen, *group)

    def wrong(self, settings: tuple[Setting, ...]) -> frozenset[str]:
        """The weights that the class has otherwise, or not at all, than the grown program."""
        if settings in self.seen:
            return self.seen[settings]
        if len(self.seen) >= MOST:
            raise meristem.CarrierError(
                f"the config was not found among {MOST}; give rebuild=, which makes the larger module"
            )
        try:
            with torch.device("meta"):
                made: nn.Module = type(self.module)(self.config(settings))
        except Exception:  # classes and configs refuse sizes with errors of any kind
            own = {}  # nothing of it is right
        else:
            own = {n: tuple(t.shape) for n, t in made.state_dict().items()}
        names = own.keys() | self.shapes.keys()
        found = frozenset(n for n in names if own.get(n) != self.shapes.get(n))
        self.seen[settings] = found
        return found


def _fields(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every public field of a config and of the configs inside it."""
    for name, value in vars(config).items():
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _fields(value, (*path, name))
        else:
            yield (*path, name), value


def _of(
    at: tuple[Path, Any], kind: str, before: int, after: int, fields: list[tuple[Path, Any]]
) -> Iterator[Setting]:
    """What a field may become where a dimension grows from ``before`` to ``after``."""
    path, value = at
    if isinstance(value, bool) or value != before:
        return
    if kind == "layers":
        lists = tuple(
            (p, _longer(v, after))
            for p, v in fields
            if isinstance(v, list) and len(v) == before and p[:-1] == path[:-1]
        )
        if lists:
            yield Setting(path, after, lists)
    yield Setting(path, after)


def _longer(entries: list[Any], count: int) -> tuple[Any, ...]:
    """Going on as the list began: in turns, where its entries take turns."""
    n = len(entries)
    period = next(p for p in range(1, n + 1) if entries == (entries[:p] * n)[:n])
    return tuple(entries[i % period] for i in range(count))


__all__ = ["Setting", "solved"]
