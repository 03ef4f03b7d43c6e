"""Growth in width: from wishes to sizes of atoms, the proof, and the script that carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meristem.method_hooks import hooks
from meristem.model import Model
from meristem.passes import WIDTH_PASSES
from meristem.passes.experts import strategies
from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.blocks import Growth
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import MeristemError, SizeError
from meristem.rewrite.given import Givens
from meristem.rewrite.limits import companions, literal_edits
from meristem.rewrite.methods import Method, method
from meristem.rewrite.plan import Change, Plan
from meristem.rewrite.planner import Solution, solve
from meristem.rewrite.reports import describe, listed
from meristem.rewrite.request import Wish
from meristem.rewrite.script import edit_script
from meristem.supplied import Supplied


@dataclass
class Widening:
    """One growth in width: the new size of every atom, and of the dimensions that were ``reached``.

    ``lengths`` are old and new lengths of positions, ``tables`` the atoms of theirs and what follows them.
    ``solution`` is the proof, once there is a script.
    """

    model: Model
    plan: Plan
    wishes: Sequence[Wish]
    atoms: dict[Term, int]
    reached: dict[str, int]
    lengths: dict[int, int]
    tables: set[Term]
    solution: Solution | None = None

    @staticmethod
    def of(model: Model, plan: Plan, wishes: Sequence[Wish]) -> Widening:
        """What wishes of width come to. Raises SizeError where they do not fit together."""
        atoms, reached = _atoms(wishes, plan.boundary)
        lengths = _lengths(wishes, reached)
        places = {
            t for w in wishes if w.dimension.kind == "positions" for t in atoms_of(w.dimension.term)
        }
        follow = companions(model.graph, model.equations, lengths, atoms)
        tables = {t for t in places if t in atoms} | set(follow) - set(atoms)
        return Widening(model, plan, wishes, atoms | follow, reached, lengths, tables)

    def script(self, supplied: Supplied) -> EditScript | None:
        """The proof and the script; both are reported in the plan. None where nothing grows in width.

        Raises NotPreserved where the method does not keep the function.
        """
        plan, chosen = self.plan, method(self.plan.method).width
        extra = hooks(chosen)
        if not self.atoms:
            plan.given = Givens(plan.given, self.model.graph.weights).finish()
            if not supplied.combines or extra.changes is None:
                return None
            script = EditScript()
            extra.changes(self, script, chosen, supplied)
            plan.weights = {e.weight.name: e.expansion for e in script.weights}
            return script
        solution = self.solution = self.solve(self.atoms)
        if extra.gives is not None:
            plan.given |= extra.gives(self, solution, supplied)
        givens = Givens(plan.given, self.model.graph.weights)
        script = self.edits(solution, chosen, givens)
        if extra.changes is not None:
            extra.changes(self, script, chosen, supplied)
        _report(plan, solution, script, self.wishes, self.reached, self.model.dimensions)
        for edits in literal_edits(self.model.graph, self.lengths):
            script.literals.append(edits.literal)
            script.sizes += edits.sizes
            plan.constants.append(edits.words)
        plan.given = givens.finish()
        return script

    @property
    def names(self) -> dict[Term, str]:
        """What messages call atoms: the first dimension that they are part of."""
        known: dict[Term, str] = {}
        for d in self.model.dimensions:
            if d.kind != "layers":
                for t in atoms_of(d.term):
                    known.setdefault(t, d.name)
        return {t: known.get(t, f"an axis of {t.size}") for t in self.atoms}

    def solve(self, sizes: Mapping[Term, int]) -> Solution:
        """The proof at these sizes of the atoms."""
        plan, chosen = self.plan, method(self.plan.method).width
        order = chosen.order(plan.compensate)
        return solve(
            self.model.equations,
            sizes,
            compensate=plan.compensate,
            boundary=plan.boundary,
            strategies={t: strategies(t, order) for t in sizes},
            names=self.names,
            seed=plan.seed,
            tolerant=chosen.tolerant,
        )

    def edits(self, solution: Solution, chosen: Method, givens: Givens) -> EditScript:
        """What a proof changes."""
        return edit_script(
            solution,
            seed=self.plan.seed,
            split=chosen.split,
            given=givens,
            lengths=self.tables,
            stretch=chosen.stretch,
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
