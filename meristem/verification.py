"""meristem.verify: the verify room's checks brought together with models and their carriers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meristem.method_depth import depth_hooks
from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import CarrierError, OutputError, RuntimeUnavailable
from meristem.rewrite.methods import method
from meristem.rewrite.plan import Plan
from meristem.verification_locate import locate_in
from meristem.verification_sides import Subject, subject
from meristem.verification_steps import follow, interface_of, recipes_of, training_of
from meristem.verify.inputs import STYLES, Sample, choose_sizes, draw
from meristem.verify.numeric import (
    Deployed,
    algebra,
    attempt,
    deployment,
    eps_of,
    usable,
)
from meristem.verify.programs import Mean, Program
from meristem.verify.recipes import EPSILON, Recipes, Stored
from meristem.verify.report import LEVELS, Report, Verdict, not_checked
from meristem.verify.signature import class_outputs

RUNTIMES = ("onnxruntime", "torch")
_RANDOM = 2  # random inputs at each size for level 1
_DEPLOYED = 8  # the least number of inputs for level 2


def verify_models(
    model: Any,
    grown: Any,
    *,
    runtime: str = "onnxruntime",
    providers: Any = None,
    inputs: Any = None,
    layers: bool = False,
) -> Report:
    """Measure that ``grown`` computes what ``model`` does; docs/verify.md explains the levels.

    Both are Models or paths. Levels "algebra" and "training" need the plan that made ``grown`` from
    ``model``. ``runtime`` is "onnxruntime" or, for models from torch, "torch"; ``providers`` are
    execution providers besides the CPU ("cuda"). ``inputs`` is a list of tuples (in the order of the
    inputs) or dicts (by their names) in place of those that verification draws. With ``layers`` the
    report says how values on the way agree also where nothing differs.

    Raises RuntimeUnavailable where a runtime or provider is asked for that is not there.
    """
    if runtime not in RUNTIMES:
        raise RuntimeUnavailable(f"runtime={runtime!r} is not known; choose from {RUNTIMES}")
    check = _Check(_model(model), _model(grown))
    samples = check.given(inputs) if inputs is not None else check.drawn()
    levels = {
        "algebra": check.algebra(samples),
        "deployment": check.deployment(samples, runtime, providers),
        "training": check.training(samples),
    }
    locate_in(
        levels, check.old, check.new, check.steps, samples.every, check.interface, always=layers
    )
    return Report({name: levels[name] for name in LEVELS})


def _model(source: Any) -> Model:
    if isinstance(source, Model):
        return source
    from meristem.api import load

    return load(source)


@dataclass
class Samples:
    """Inputs for the levels: all for algebra, ``plain`` ones of ordinary size for the others."""

    every: list[Sample]
    plain: list[Sample]
    notes: list[str]


class _Check:
    """One verification. ``reason`` says why levels that need a plan are left out."""

    def __init__(self, model: Model, grown: Model) -> None:
        self.old: Subject = subject(model)
        self.new: Subject = subject(grown)
        self.others: list[Subject] = [subject(m) for m in grown.others]
        self.plan = grown.plan
        self.steps, self.reason = follow(model, grown)
        found = class_outputs(model.graph, model.equations)
        self.interface = replace(interface_of(self.steps), classes=found)
        self.script = EditScript(literals=[e for s in self.steps for e in s.script.literals])

    # -- inputs -----------------------------------------------------------------------------------

    def drawn(self) -> Samples:
        """Random and structured inputs at two sizes of every dynamic axis."""
        fields = self.old.fields()
        reference = self.old.double()

        def problem(sample: Sample) -> str:
            got, wrong = attempt(reference, sample)
            return wrong or ("" if usable(got) else "the original gives no number there")

        if self.old.evaluates():
            sizes = choose_sizes(fields, self.old.ranges(), problem)
        else:
            sizes = choose_sizes(fields, self.old.ranges(), lambda _: "")
        every, plain = [], []
        for at in sizes.chosen:
            count = -(-_DEPLOYED // len(sizes.chosen))
            random = [draw(fields, at, "random", seed) for seed in range(count)]
            structured = [draw(fields, at, style) for style in STYLES]
            every += random[:_RANDOM] + structured
            plain += random
        example = self.old.example()
        if example is not None:
            every.append(example)
            plain.append(example)
        return Samples(every, plain, sizes.notes)

    def given(self, inputs: Sequence[Any]) -> Samples:
        """The caller's inputs, which serve every level."""
        samples = [self.old.sample(x, f"input {i}") for i, x in enumerate(inputs)]
        if not samples:
            raise CarrierError("inputs= is empty; give a list of tuples or dicts, or leave it out")
        return Samples(samples, samples, [f"{len(samples)} inputs were given"])

    # -- levels -----------------------------------------------------------------------------------

    def recipes(self) -> Recipes:
        """What the plan says of every stored name."""
        return recipes_of(self.steps)

    def reference(self) -> Program:
        """The original in float64; of several models the mean of their outputs."""
        programs = [s.double() for s in (self.old, *self.others)]
        return programs[0] if len(programs) == 1 else Mean(programs)

    def algebra(self, samples: Samples) -> Verdict:
        """Level 1."""
        if self.reason:
            return not_checked(self.reason)
        recipes, stored = self.recipes(), Stored()
        try:
            for name, array, dtype in self.new.stored():
                exact = recipes.wide(name, array.shape)
                exact = self.new.oriented(name, exact)
                stored.add(name, array, dtype, exact, recipes.averages(name), len(self.steps))
            reference = self.reference()
            grown = self.new.double(recipes, self.script)
        except CarrierError as error:
            stored.failures.append(str(error))
            return Verdict("differs", str(error), stored.measures)
        if not self.old.evaluates():
            return not_checked(
                f"the original cannot be evaluated in float64: {self.old.obstacle()}"
            )
        return algebra(
            reference, grown, samples.every, self.interface, stored.measures, stored.failures,
            [*samples.notes, *self._places(samples)], self.approximate[:1],
        )  # fmt: skip

    def _places(self, samples: Samples) -> list[str]:
        """What the method of depth says of the places where layers grow, measured on the original."""
        if self.plan is None:
            return []
        reports = depth_hooks(method(self.plan.method)).reports
        arrays = [s.arrays for s in samples.every]
        if reports is None:
            return []
        return reports(self.old.model, self.plan, arrays, self.old.native())

    @property
    def approximate(self) -> list[str]:
        """What the plan says does not preserve the function; its method must be one that does not, and so
        must be that of the stage that says so."""
        if self.plan is None or _preserves(self.plan):
            return []
        return [row for p in self.plan.steps if not _preserves(p) for row in p.approximate]

    def deployment(self, samples: Samples, runtime: str, providers: Any) -> Verdict:
        """Level 2."""
        with tempfile.TemporaryDirectory(prefix="meristem-verify-") as folder:
            try:
                pairs = zip(
                    self.old.deployed(runtime, providers, Path(folder) / "original.onnx"),
                    self.new.deployed(runtime, providers, Path(folder) / "grown.onnx"),
                    strict=True,
                )
                settings = [Deployed(s, a, b) for (s, a), (_, b) in pairs]
            except OutputError as error:
                return not_checked(f"{error}" + _instead(self.old, runtime))
            notes = list(samples.notes)
            reference = None
            if self.old.evaluates():
                reference = self.reference()
            else:
                notes.append(f"the reference is the original's own run: {self.old.obstacle()}")
            planned = None
            if self.approximate and not self.reason:
                planned = self.new.double(self.recipes(), self.script)
            eps = eps_of(EPSILON, self.old.dtypes())
            return deployment(
                reference, settings, samples.plain, self.interface, eps, notes, planned
            )

    def training(self, samples: Samples) -> Verdict:
        """Level 3."""
        if self.reason:
            return not_checked(self.reason)
        if not self.old.trains:
            return not_checked(
                "an ONNX file has no gradients; the same plan on the torch model would be checked"
            )
        valid = [s for s in samples.plain if not attempt(self.old.double(), s)[1]][:3]
        if not valid:
            return not_checked("no input was valid; pass inputs=")
        try:
            return training_of(self.steps, valid)
        except CarrierError as error:
            return Verdict("differs", str(error))


def _preserves(plan: Plan) -> bool:
    """Is the method of one growth exact?"""
    chosen = method(plan.method)
    return chosen.width.preserves and not chosen.order


def _instead(old: Subject, runtime: str) -> str:
    return '; runtime="torch" compares the modules' if old.trains and runtime != "torch" else ""
