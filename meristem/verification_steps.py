"""The growths behind a plan, one after another, as verification follows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import MeristemError
from meristem.rewrite.graph import Array
from meristem.rewrite.methods import method, only
from meristem.rewrite.plan import Plan
from meristem.rewrite.planner import Solution
from meristem.rewrite.request import by_name
from meristem.stages import listed
from meristem.supplied import Supplied
from meristem.verification_sides import Subject, subject
from meristem.verify.inputs import Sample
from meristem.verify.numeric import Interface
from meristem.verify.recipes import Recipes, Stored, fits
from meristem.verify.report import Verdict, in_turn

Read = Callable[[str], Array]


@dataclass
class Step:
    """One growth by ``plan``, with what it leaves to the model: interfaces and rewritten constants, and
    its proof.

    ``others`` are the models beside ``old``.
    """

    old: Subject
    new: Subject
    plan: Plan
    others: Sequence[Subject] = ()
    script: EditScript = field(default_factory=EditScript)
    solution: Solution | None = None

    def bind(self) -> str:
        """Repeat the proof; what shows that the plan does not start from this model, or nothing."""
        wrong = fits(self.plan.weights, self.old.sizes()) or self._counts()
        return wrong or self._proved() or self._unmade()

    def _proved(self) -> str:
        """The proof of what grows in width, kept; what refuses it, or nothing."""
        width = {by_name(n): s for n, s in self.plan.sizes.items() if not n.startswith("layers")}
        if not width:
            return ""
        from meristem.preparation import prepare

        try:
            supplied = Supplied([s.model for s in self.others], maps=self.plan.maps)
            wide = only(self.plan.method, "width", "positions", "experts")
            options = self.plan.options | {"method": wide, "at": "end"}
            prepared = prepare(self.old.model, width, supplied=supplied, **options)
        except MeristemError as error:
            return str(error)
        self.script = getattr(prepared, "script", None) or EditScript()
        self.solution = getattr(prepared, "solution", None)
        return ""

    def _counts(self) -> str:
        """What grows from another size than this model has; empty where nothing does."""
        model = self.old.model
        sizes = {d.name: d.size for d in listed(model, method(self.plan.method))}
        for c in self.plan.changes:
            if sizes.get(c.name, c.before) != c.before:
                return (
                    f"the plan grows {c.name} from {c.before}, but the source has {sizes[c.name]}"
                )
        return ""

    def _unmade(self) -> str:
        """What the grown model has that the plan does not make of this one; empty where it makes all.

        Recipes say themselves what they start from. Of what the plan leaves as it is the grown model alone
        shows that it had another size before.
        """
        recipes, old = self.recipes(), self.old.sizes()
        known = recipes.weights.keys() | recipes.constants.keys()
        used = {w.name for w in self.new.model.graph.weights}
        for name, size in self.new.sizes().items():
            source = recipes.clones.get(name, (name, ""))[0]
            if name in used and source and not old.keys() & {source, source.rpartition("#")[0]}:
                return (
                    f"{name} of the grown model comes from {source}, which the source does not have"
                )
            kept = source in old and source not in known
            if kept and recipes.made(name).shape(old[source]) != size:
                return (
                    f"{source} has {old[source]} in the source and does not grow by the plan, but the "
                    f"grown model has {name} with {size}"
                )
        return ""

    @property
    def interface(self) -> Interface:
        """Where inputs and outputs grow."""
        return Interface(self.script.interface)

    def read(self, name: str) -> Array:
        """A tensor of the source, or of one of the models beside it (``1:name``); KeyError where there
        is none."""
        number, colon, rest = name.partition(":")
        if colon and number.isdigit() and int(number) <= len(self.others):
            return self.others[int(number) - 1].read(rest)
        return self.old.read(name)

    def recipes(self, before: Recipes | None = None) -> Recipes:
        """What the plan says of every stored name; ``before`` is what made the source, else it is as it
        is stored."""
        weights = {}
        for names in self.old.names():
            for recipe in [self.plan.weights[n] for n in names if n in self.plan.weights][:1]:
                weights.update(dict.fromkeys(names, recipe))
        read = self.read if before is None else self._made(before)
        constants = self.old.stored_constants(self.script)
        return Recipes(read, weights, self.plan.clones, constants)

    def _made(self, before: Recipes) -> Read:
        """Tensors of the source as recipes give them."""
        graph = self.old.model.graph
        shapes = {n: w.shape for w in (*graph.weights, *graph.unused) for n in w.names}

        def read(name: str) -> Array:
            found = self.old.source(name)
            return before.wide(found, shapes.get(found, ()))

        return read


def follow(model: Model, grown: Model) -> tuple[list[Step], str]:
    """The growths from ``model`` to ``grown``, or why they are not known."""
    plan, first, last = grown.plan, subject(model), subject(grown)
    if plan is None:
        return [], "there is no plan, so it is not known where old coordinates are"
    if type(first) is not type(last):
        return [], "the two models come from different carriers, so the plan does not connect them"
    steps: list[Step] = []
    for i, part in enumerate(plan.steps):
        old = steps[-1].new if steps else first
        others = grown.others if method(part.method).width.fuses else ()
        new = last
        if i + 1 < len(plan.steps):
            from meristem.api import grow

            try:
                new = subject(grow(old.model, part, models=others))
            except MeristemError as error:
                return [], _elsewhere(str(error))
        steps.append(Step(old, new, part, [subject(m) for m in others]))
        wrong = steps[-1].bind()
        if wrong:
            return [], _elsewhere(wrong)
    return steps, ""


def _elsewhere(why: str) -> str:
    return f"the plan does not start from this model: {why}; verify step by step"


def interface_of(steps: Sequence[Step]) -> Interface:
    """Where the inputs and outputs of the first source grow, under its names."""
    inputs = [e for s in steps for e in s.script.interface if not e.output]
    outputs = []
    for s in reversed(steps):  # the last growth is undone first
        names = [n for n, _ in s.old.model.graph.outputs]
        first = [n for n, _ in steps[0].old.model.graph.outputs]
        edits = (e for e in s.script.interface if e.output)
        outputs += [replace(e, name=first[names.index(e.name)]) for e in edits]
    return Interface([*inputs, *outputs])


def recipes_of(steps: Sequence[Step]) -> Recipes:
    """What the plans say together of every stored name."""
    out = None
    for s in steps:
        out = s.recipes(out)
    assert out is not None
    return out


def compare_stored(steps: Sequence[Step], into: Stored) -> None:
    """What every growth stored, against its own recipes of what it started from, as that was stored.

    Fresh entries are drawn from stored numbers, so recipes of numbers before they were rounded would give
    others. Raises CarrierError where recipes do not fit.
    """
    for s in steps:
        recipes = s.recipes()
        for name, array, dtype in s.new.stored():
            exact = recipes.wide(name, array.shape, dtype)
            off = recipes.off(name, exact, dtype)
            into.add(name, array, dtype, *(s.new.oriented(name, x) for x in (exact, off)))


def training_of(steps: Sequence[Step], samples: Sequence[Sample]) -> Verdict:
    """Level 3 of every growth: what is new in one learns, and its old gradients are those before.

    Raises CarrierError where recipes do not fit.
    """
    verdicts = []
    for s in steps:
        verdicts.append(s.new.training(s.old, samples, s.recipes(), s.plan, s.script))
        samples = [s.interface.inputs(x) for x in samples]
    return in_turn(verdicts)


__all__ = ["Step", "compare_stored", "follow", "interface_of", "recipes_of", "training_of"]
