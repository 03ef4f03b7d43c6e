"""A request as growths one after another, where a later one has to read what an earlier one makes.

The parts of a request are a table. A request that has several is carried out as stages: each is prepared
like a request of its own, on the model that the one before gives, with the words of the method that it
needs. What was asked of a dimension is asked of everything that it has become by then: a dimension is
followed by the weights that it is an axis of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from meristem.method_depth import depth_hooks
from meristem.mixtures import mixable
from meristem.model import Model
from meristem.prepared import Prepared
from meristem.rewrite.blocks import COPIES
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import CarrierError, NotPreserved, SizeError
from meristem.rewrite.given import Entry
from meristem.rewrite.methods import Chosen, only
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.request import Target, Wish, by_name, wanted
from meristem.supplied import NOTHING, Supplied


@dataclass(frozen=True)
class Asked:
    """A request with its names resolved: ``wishes``, the numbers of ``experts`` of mixtures to make, and
    where ``rounds`` of copies come first their whole multiples and the sizes behind them, by name."""

    plan: Plan
    chosen: Chosen
    wishes: Sequence[Wish]
    experts: Mapping[str, int]
    rounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Wish]:
        return [w for w in self.wishes if w.dimension.kind in kinds]

    @property
    def widths(self) -> list[Wish]:
        """What is asked of the sizes of weights."""
        return [w for w in self.wishes if w.dimension.kind not in ("layers", "image")]

    @property
    def rows(self) -> list[Wish]:
        """Tables, beside widths, whose new rows the method of width cannot make."""
        width, tables = self.chosen.width, self.of("vocabulary", "positions")
        if not width.units or not any(grows(w) for w in self.widths if w not in tables):
            return []
        return [w for w in tables if grows(w) and not (width.copies and _multiple(w))]

    @property
    def deepens(self) -> bool:
        """Are there more layers?"""
        return any(grows(w) for w in self.of("layers"))

    @property
    def layers_first(self) -> bool:
        """Do new blocks compute at once, and does a growth in width preserve what they then compute?

        That of a model without them is proved for what each block reads today, and a copy reads another
        stream. Methods of width that are not exact keep the order in which they are published.
        """
        exact = self.chosen.width.widens_exactly and bool(self.chosen.order)
        return self.deepens and exact and any(map(grows, self.widths))


def _multiple(w: Wish) -> bool:
    """Is a whole multiple of today's size asked for?"""
    return wanted(w.target, w.dimension.size)[0] % w.dimension.size == 0


def grows(w: Wish) -> bool:
    """Is another size asked for than today's?"""
    return wanted(w.target, w.dimension.size)[0] != w.dimension.size


@dataclass(frozen=True)
class Part:
    """A kind of growth. ``asks`` gives what a request asks of it, by name; ``words`` is the method that it
    takes; ``main`` is the one that takes what is supplied, and what is given but for ``tables``. ``lists``
    are the dimensions among which its names are found again in a model that has grown already. What does
    not get where it ``ends`` is asked for again."""

    name: str
    asks: Callable[[Asked], dict[str, Target]]
    words: Callable[[Asked], str]
    main: bool = False
    tables: bool = False
    ends: bool = True
    lists: Callable[[Model, Chosen], Iterable[Dimension]] = lambda model, _: model.dimensions


def _targets(wishes: Iterable[Wish]) -> dict[str, Target]:
    return {w.dimension.name: w.target for w in wishes}


def _copied(asked: Asked) -> dict[str, Target]:
    """Layers whose blocks are copied first, and changed or widened by what follows."""
    first = asked.layers_first or (asked.chosen.copied and asked.deepens)
    return _targets(asked.of("layers")) if first else {}


def _copied_by(asked: Asked) -> str:
    return asked.chosen.copied or only(asked.plan.method, "depth")


def _rounds(asked: Asked) -> dict[str, Target]:
    return {n: multiple for n, (multiple, _) in asked.rounds.items()}


def _sizes(asked: Asked) -> dict[str, Target]:
    """Widths and layers: layers that begin as the identity are made of blocks with their new widths."""
    done = [*asked.of("image"), *asked.rows, *(asked.of("layers") if asked.layers_first else ())]
    found = _targets(w for w in asked.wishes if w not in done)
    found |= {n: size for n, (_, size) in asked.rounds.items()}
    return found if asked.deepens or not asked.experts else found | dict(asked.experts)


def _sized(asked: Asked) -> str:
    deeper = [] if asked.layers_first else ["depth"]
    stretched = ["positions"] if any(w not in asked.rows for w in asked.of("positions")) else []
    mixed = ["experts"] if asked.experts and not asked.deepens else []
    return only(asked.plan.method, "width", *deeper, *stretched, *mixed)


def _filled(asked: Asked) -> str:
    """As ``preserve`` does, but for tables of positions that are to be stretched."""
    stretched = asked.chosen.width.stretch and any(w in asked.rows for w in asked.of("positions"))
    return "interpolate" if stretched else "preserve"


def _mixtures(asked: Asked) -> dict[str, Target]:
    return dict(asked.experts) if asked.deepens else {}


PARTS = (
    Part("images", lambda a: _targets(a.of("image")), lambda a: "interpolate"),
    Part("copied layers", _copied, _copied_by),
    Part("rounds of copies", _rounds, lambda a: only(a.plan.method, "width"), ends=False),
    Part(
        "widths and layers", _sizes, _sized, main=True,
        lists=lambda model, chosen: listed(model, chosen),
    ),
    Part("rows of tables", lambda a: _targets(a.rows), _filled, tables=True),
    Part(
        "mixtures", _mixtures, lambda a: only(a.plan.method, "experts"),
        lists=lambda model, _: mixable(model),
    ),
)  # fmt: skip


def parts_of(asked: Asked) -> list[Part]:
    """The parts that a request has."""
    return [p for p in PARTS if p.asks(asked)]


def listed(model: Model, chosen: Chosen) -> list[Dimension]:
    """Everything that a request may name under a method, but for mixtures to be made."""
    found = depth_hooks(chosen).dimensions(model)
    return [*found, *model.images.dimensions] if chosen.width.stretch else found


@dataclass
class Staged:
    """Growths one after another; the plan of all has theirs as its stages."""

    plan: Plan
    steps: list[Prepared] = field(default_factory=list)

    @property
    def masked(self) -> bool:
        """Can the growth be carried further by moving a mask?"""
        return any(s.masked for s in self.steps)

    @cached_property
    def carrier(self) -> Any:
        """The carrier after all of them."""
        return self.steps[-1].carrier

    @property
    def passed(self) -> list[Model]:
        """The models between them."""
        return [s.model for s in self.steps[1:]]


def rounds_of(asked: Asked, changes: Sequence[Change]) -> dict[str, tuple[int, int]]:
    """The multiples before what was asked for, and that, where nothing but padding leads there."""
    if not asked.chosen.width.rounds:
        return {}
    names = {w.dimension.name for w in asked.wishes}
    padded = (c for c in changes if c.name in names and not is_copied(c))
    return {
        c.name: (c.after - c.after % c.before, c.after)
        for c in padded
        if c.after > 2 * c.before and c.after % c.before
    }


def is_copied(change: Change) -> bool:
    """Are new coordinates copies of old ones?"""
    return not {*COPIES}.isdisjoint(change.strategies)


def carry_out(
    model: Model, asked: Asked, supplied: Supplied, prepare: Callable[..., Any]
) -> Staged:
    """Prepare the parts of a request one after another, by ``prepare``.

    Raises what ``prepare`` does, SizeError where images would grow beside models to fuse with, and
    NotPreserved where a dimension is not found again.
    """
    plan = asked.plan
    out = Staged(plan)
    sizes: dict[str, int] = {}
    done: list[Part] = []
    at, trail = model, _Trail()
    parts = parts_of(asked)
    for number, part in enumerate(parts, 1):
        targets = {n: sizes.get(n, t) for n, t in part.asks(asked).items()}
        names = trail.names(targets, part, asked.chosen, model, at)
        options = {**plan.options, "statistics": plan.measured, "method": part.words(asked)}
        options["given"] = _given(part, asked)
        if not part.main:
            options |= {"at": "end", "statistics": {}}
            if supplied.models and not any(s.main for s in done):
                raise SizeError(
                    f"{part.name} grow before models are fused, and models= are not grown; grow every "
                    "model first, then fuse them"
                )
        wishes = {by_name(name): targets[n] for name, n in names.items()}
        own = _supplied(supplied, asked, names) if part.main else NOTHING
        step = prepare(at, wishes, supplied=own, **options)
        if part.ends:
            sizes |= {n: step.plan.sizes[name] for name, n in names.items()}
        if step.masked and number < len(parts):
            raise NotPreserved(
                f"{parts[number].name} would be made of what stands behind masks; grow them in a call of "
                "their own, behind anneal(1)",
                reason="a mask",
            )
        out.steps += step.steps if isinstance(step, Staged) else [step]
        done.append(part)
        trail.steps.append(step.plan)
        at = Model(step.carrier, model.side, step.plan)
    plan.join([s.plan for s in out.steps])
    plan.sizes = sizes
    return out


def check_plan(given: Plan, proved: Prepared | Staged) -> None:
    """Compare a plan with what the proof gives on the model that it is bound to, growth by growth.

    Raises CarrierError where they differ.
    """
    steps = proved.steps if isinstance(proved, Staged) else [proved]
    if len(given.steps) != len(steps):
        raise CarrierError(
            f"the plan has {len(given.steps)} stages, and this model takes {len(steps)}; make the plan "
            "again from this model"
        )
    for plan, step in zip(given.steps, steps, strict=True):
        stored = {n: w.name for w in step.model.graph.weights for n in w.names}
        plan.check(step.plan, stored)


def _given(part: Part, asked: Asked) -> dict[str, Entry]:
    """What is given for the weights of a part."""
    if not (part.main or part.tables):
        return {}
    tables = {name for w in asked.rows for name, _ in w.dimension.weights}
    given = asked.plan.given.items()
    return {n: e for n, e in given if tables.isdisjoint([n, *e.get("names", ())]) != part.tables}


def _supplied(supplied: Supplied, asked: Asked, names: Mapping[str, str]) -> Supplied:
    """What is supplied, with the stacks that have been copied."""
    if not _copied(asked):
        return supplied
    before = {w.dimension.name: w.dimension.size for w in asked.of("layers")}
    return replace(supplied, blocks={name: before[n] for name, n in names.items() if n in before})


@dataclass
class _Trail:
    """The growths so far, through which dimensions are followed."""

    steps: list[Plan] = field(default_factory=list)

    def origin(self, name: str) -> str:
        """The name in the source of what a stored tensor comes from."""
        for plan in reversed(self.steps):
            name = plan.clones.get(name, (name, ""))[0]
        return name

    def names(
        self, targets: Iterable[str], part: Part, chosen: Chosen, model: Model, at: Model
    ) -> dict[str, str]:
        """Names of dimensions of ``at`` -> those of the model's that they have been."""
        wanted_ = dict.fromkeys(targets)
        if not any(p.clones for p in self.steps):
            return {n: n for n in wanted_}
        places: dict[tuple[str, str, int], list[str]] = {}
        for d in part.lists(model, chosen):
            if d.name in wanted_:
                for name, axis in d.weights:
                    places.setdefault((d.kind, name, axis), []).append(d.name)
        out: dict[str, str] = {}
        for d in part.lists(at, chosen):
            votes = [
                n for name, axis in d.weights
                for n in places.get((d.kind, self.origin(name), axis), [])
            ]  # fmt: skip
            if votes:
                out[d.name] = max(dict.fromkeys(votes), key=votes.count)
        lost = [n for n in wanted_ if n not in out.values()]
        if lost:
            raise NotPreserved(
                f"{lost[0]} is not found again behind what grows before it; grow it in a step of its own",
                dimension=lost[0],
            )
        return out


__all__ = [
    "Asked",
    "Staged",
    "carry_out",
    "check_plan",
    "grows",
    "is_copied",
    "listed",
    "parts_of",
    "rounds_of",
]
