"""From a request to everything that growing needs: the solved plan, the edits, the widened carrier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

from meristem.mixtures import experts_wanted, report_experts, upcycling
from meristem.model import Model
from meristem.passes import LAYERS, NET2DEEPER, WIDTH_PASSES
from meristem.passes.experts import strategies
from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.blocks import Growth
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import (
    MeristemError,
    NotPreserved,
    PinnedDimension,
    SizeError,
    UnsupportedOperator,
)
from meristem.rewrite.given import Givens, entries
from meristem.rewrite.limits import companions, literal_edits
from meristem.rewrite.methods import method
from meristem.rewrite.numbering import within
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.planner import Solution, solve
from meristem.rewrite.reports import describe, listed
from meristem.rewrite.request import Wish, resolve
from meristem.rewrite.script import edit_script
from meristem.rewrite.split import fold, folded
from meristem.rewrite.stacks import Stack
from meristem.supplied import NOTHING, Supplied, complete

BOUNDARIES = ("pin", "crop", "grow")
COMPENSATIONS = ("graph", "weights")


@dataclass
class Prepared:
    """A plan with what carries it out on one model."""

    model: Model
    plan: Plan
    script: EditScript | None
    layers: dict[str, int]
    experts: dict[str, int] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Can the growth be carried further by moving a mask?"""
        return self.script is not None and self.script.mask is not None

    @cached_property
    def widened(self) -> Any:
        """The carrier after width, which shares nothing with the source."""
        return self.model.side.widen(self.model.carrier, self.script or EditScript())

    @cached_property
    def mixed(self) -> Any:
        """The carrier after width and upcycling."""
        script = self.upcycling
        return self.widened if script is None else self.model.side.upcycle(self.widened, script)

    @cached_property
    def upcycling(self) -> Any:
        """The script of new mixtures on the widened carrier; None without them."""
        return upcycling(Model(self.widened, self.model.side), self) if self.experts else None

    @cached_property
    def depth(self) -> Any:
        """The depth script on the widened carrier; None without new layers."""
        if not self.layers:
            return None
        from meristem.rewrite.depth import plan_depth

        wide = Model(self.widened, self.model.side)
        chosen = method(self.plan.method)
        if chosen.depth == "net2deeper":
            from meristem.rewrite.deeper import plan_deeper

            places = dict(zip(self.model.sites, wide.sites.values(), strict=True))
            return plan_deeper(wide.graph, {places[name]: n for name, n in self.layers.items()})
        # Widening adds operators without paths to files that have no others, so names are not asked.
        twins = dict(zip(self.model.stacks, wide.stacks.values(), strict=True))
        targets = {twins[name]: n for name, n in self.layers.items()}
        return plan_depth(
            wide.graph,
            wide.equations,
            targets,
            at=self.plan.at,
            order=chosen.order,
            cancel=chosen.depth == "cancel",
        )

    @property
    def sources(self) -> dict[str, tuple[str, str]]:
        """For every stored name that depth adds or moves: the name that it has before depth, and
        the text of its recipe (``rewrite.made``). A gate has no source."""
        script = self.depth
        out: dict[str, tuple[str, str]] = {}
        graph = self.model.graph
        names = [n for w in (*graph.weights, *graph.unused) for n in w.names]
        # Small constants are no weights of the view, but a torch program stores them by name.
        names = list(dict.fromkeys([*names, *getattr(self.model.carrier, "tensors", ())]))
        for name in names:
            if script.moved(name) != name:
                out[script.moved(name)] = (name, "copy")
        for clone in script.clones:
            made = {n: m.text for w, m in clone.made.items() for n in w.names}
            origins = {n: o.name for w, o in clone.origins.items() for n in w.names}
            own = {n for w in clone.block.weights for n in w.names}
            for name in names:
                if name in own or within(name, clone.modules):
                    out[clone.name(name)] = (origins.get(name, name), made.get(name, "copy"))
            if clone.gate:
                out[clone.gate] = ("", "0.0")
        return out


def prepare(
    model: Model,
    sizes: Mapping[str, int | str],
    *,
    supplied: Supplied = NOTHING,
    **options: Any,
) -> Prepared:
    """Resolve, solve and script a request; raises what ``meristem.plan`` documents."""
    options["given"] = entries(options.get("given"))
    plan = Plan({}, **options)
    _check_options(plan)
    supplied.check(method(plan.method))
    givens = Givens(plan.given, model.graph.weights)
    experts, sizes = experts_wanted(model, sizes, plan)
    dimensions = (
        NET2DEEPER.dimensions(model)
        if method(plan.method).depth == "net2deeper"
        else model.dimensions
    )
    named = {d.name: d for d in dimensions}
    try:
        wishes = resolve(dimensions, sizes, boundary=plan.boundary)
    except PinnedDimension as error:
        raise _unsupported(named, error) from None
    width = [w for w in wishes if w.dimension.kind != "layers"]
    depth = [w for w in wishes if w.dimension.kind == "layers"]
    periods = {n: s.period for n, s in model.stacks.items()} if depth else {}
    layers = LAYERS.solve(depth, periods)
    atoms, reached = _atoms(width, plan.boundary)
    lengths = _lengths(width, reached)
    before = set(atoms)
    atoms |= companions(model.graph, model.equations, lengths, atoms)
    plan.sizes = {**reached, **layers, **experts}
    plan.unused = [n for w in model.graph.unused for n in w.names]
    script = None
    if atoms:
        names = _names(model, atoms)
        chosen = method(plan.method).width
        order = chosen.order(plan.compensate)
        solution = solve(
            model.equations,
            atoms,
            compensate=plan.compensate,
            boundary=plan.boundary,
            strategies={t: strategies(t, order) for t in atoms},
            names=names,
            seed=plan.seed,
            tolerant=chosen.tolerant,
        )
        grown = [
            t for w in width if w.dimension.kind == "positions" for t in atoms_of(w.dimension.term)
        ]
        script = edit_script(
            solution,
            seed=plan.seed,
            split=chosen.split,
            given=givens,
            lengths={*(t for t in grown if t in before), *(set(atoms) - before)},
            stretch=chosen.stretch,
        )
        complete(model, plan, script, chosen, supplied)
        _report(plan, solution, script, width, reached, model.dimensions)
        for edits in literal_edits(model.graph, lengths):
            script.literals.append(edits.literal)
            script.sizes += edits.sizes
            plan.constants.append(edits.words)
    plan.given = givens.finish()
    deeper = {n: s for n, s in layers.items() if s != named[n].size}
    if method(plan.method).depth == "split" and deeper:
        script = script or EditScript()
        _split(plan, script, {model.stacks[n]: s for n, s in deeper.items()})
    mixtures = {n: s for n, s in experts.items() if s > 1}
    prepared = Prepared(model, plan, script, deeper, mixtures)
    if mixtures:
        report_experts(prepared)
    if prepared.depth is not None:
        _refuse_gates(plan, prepared.depth)
        plan.changes += [
            Change(n, "layers", named[n].place, named[n].size, s)
            for n, s in prepared.layers.items()
        ]
        plan.clones |= prepared.sources
        plan.added += prepared.depth.added
        plan.approximate += prepared.depth.approximate
        plan.notes += [str(r) for r in prepared.depth.reports]
    return prepared


def _split(plan: Plan, script: EditScript, targets: Mapping[Stack, int]) -> None:
    """Blocks that come k times carry 1/k of their branches."""
    for stack, target in targets.items():
        weights = folded(stack, target)
        fold(script, weights)
        names = ", ".join(sorted(w.name for w in weights))
        plan.notes.append(f"{stack.name}: a block that is there k times has 1/k in {names}")
    plan.weights |= {e.weight.name: e.expansion for e in script.weights}


def _refuse_gates(plan: Plan, depth: Any) -> None:
    """Weights alone make a block the identity only where some of its own are next to the sum."""
    gated = next((c for c in depth.clones if c.gate), None)
    if gated is not None and plan.compensate == "weights":
        raise NotPreserved(
            f"{gated.stack.name} cannot grow by weights alone: a norm follows the sum of its blocks, or "
            "they share the weights next to it, so that a new block takes a gate, which the class does "
            'not have; use compensate="graph", or leave it out of the request',
            dimension=gated.stack.name,
            place=gated.block.place,
            reason="a new block takes a gate",
        )


def _check_options(plan: Plan) -> None:
    if method(plan.method).order and plan.at != "end":
        raise SizeError(
            f"at={plan.at!r} places blocks that are the identity; the order of stack says where copies go",
            at=plan.at,
        )
    if method(plan.method).depth == "net2deeper" and plan.at != "end":
        raise SizeError(
            f"at={plan.at!r} places blocks in residual stacks; with net2deeper the selector says where",
            at=plan.at,
        )
    if not isinstance(plan.seed, Integral):
        raise MeristemError(f"seed={plan.seed!r} is no whole number")
    if isinstance(plan.at, str) and plan.at not in ("end", "spread"):
        raise SizeError(f'at={plan.at!r} is neither "end" nor "spread" nor a list of positions')
    if not isinstance(plan.at, str):
        positions = plan.at if isinstance(plan.at, Sequence) else [None]
        if not all(isinstance(p, Integral) for p in positions):
            raise SizeError(f'at={plan.at!r} is neither "end" nor "spread" nor a list of positions')
    for name, value, known in (
        ("boundary", plan.boundary, BOUNDARIES),
        ("compensate", plan.compensate, COMPENSATIONS),
    ):
        if value not in known:
            raise MeristemError(f"{name}={value!r} is not known; choose from {', '.join(known)}")


def _unsupported(named: Mapping[str, Dimension], error: PinnedDimension) -> MeristemError:
    """A pin by an operator without semantics is an error of its own class."""
    d = named[error.dimension]  # type: ignore[attr-defined]
    if not d.opaque:
        return error
    return UnsupportedOperator(
        f"{error}; add its semantics (docs/add-an-operator.md) or grow other dimensions",
        **error.facts,
    )


def _lengths(wishes: Sequence[Wish], reached: Mapping[str, int]) -> dict[int, int]:
    """Old and new lengths of the positions that grow."""
    out: dict[int, int] = {}
    for w in wishes:
        d = w.dimension
        if d.kind == "positions" and reached[d.name] > d.size:
            out[d.size] = max(reached[d.name], out.get(d.size, 0))
    return out


def _atoms(wishes: Sequence[Wish], boundary: str) -> tuple[dict[Term, int], dict[str, int]]:
    """New sizes of atoms for all passes together, and of the dimensions that were asked for."""
    atoms: dict[Term, int] = {}
    reached: dict[str, int] = {}
    for p in dict.fromkeys(WIDTH_PASSES.values()):
        own = [w for w in wishes if w.dimension.kind in p.kinds]
        got, sizes = p.solve(own, lifted=boundary != "pin")
        for t, n in got.items():
            atoms[t] = max(n, atoms.get(t, n))
        reached |= sizes
    growth = Growth(atoms)
    for w in wishes:
        d = w.dimension
        size = growth.size(d.term)
        if size != reached[d.name]:
            mine = set(atoms_of(d.term)) & set(atoms)
            others = [
                v.dimension.name
                for v in wishes
                if v is not w and mine & set(atoms_of(v.dimension.term))
            ]
            raise SizeError(
                f"{d.name} would become {size} instead of {reached[d.name]}: it shares an axis with "
                f"{listed(others)}; ask for sizes that agree, or grow them one after another",
                dimension=d.name,
                size=d.size,
                target=reached[d.name],
                others=others,
            )
    return atoms, reached


def _names(model: Model, atoms: Iterable[Term]) -> dict[Term, str]:
    """What messages call atoms: the first dimension that they are part of."""
    known: dict[Term, str] = {}
    for d in model.dimensions:
        if d.kind != "layers":
            for t in atoms_of(d.term):
                known.setdefault(t, d.name)
    return {t: known.get(t, f"an axis of {t.size}") for t in atoms}


def _report(
    plan: Plan,
    solution: Solution,
    script: EditScript,
    wishes: Sequence[Wish],
    reached: dict[str, int],
    dimensions: Sequence[Dimension],
) -> None:
    """What changes (asked for first, then what shares its axes), the recipes and the proof."""
    asked = [w.dimension for w in wishes]
    others = [d for d in dimensions if d.kind != "layers" and d.name not in reached]
    for d in (*asked, *others):
        size = solution.growth.size(d.term)
        if size != d.size:
            used = {solution.strategies[t] for t in atoms_of(d.term) if t in solution.strategies}
            plan.changes.append(Change(d.name, d.kind, d.place, d.size, size, tuple(sorted(used))))
    plan.weights = {e.weight.name: e.expansion for e in script.weights}
    continued = {n: r for n, r in plan.weights.items() if r.rule}
    for name, recipe in continued.items():
        steps = (f"{recipe.axes[a].old_size} to {recipe.axes[a].size}" for a in recipe.along)
        sizes = ", ".join(dict.fromkeys(steps))
        if recipe.rule == "stretch":
            plan.approximate.append(f"{name} is interpolated from {sizes} positions")
        else:
            plan.notes.append(f"{name} goes on from {sizes} by its own rule ({recipe.rule})")
    if method(plan.method).width.stretch and not plan.approximate:
        raise MeristemError(
            "method='interpolate' stretches learned tables of positions, and none grows in this request; "
            'ask for positions, or take method="preserve"'
        )
    plan.added = script.added_operators
    describe(plan, solution, script)
