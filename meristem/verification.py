"""meristem.verify: the verify room's checks brought together with models and their carriers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meristem.method_depth import depth_hooks
from meristem.model import Model
from meristem.rewrite.edits import EditScript
from meristem.rewrite.errors import CarrierError
from meristem.rewrite.methods import method
from meristem.rewrite.plan import Plan
from meristem.verification_decoding import decode
from meristem.verification_inputs import Samples, check_drawn, drawn, given, same_interface
from meristem.verification_locate import locate_in
from meristem.verification_package import packaged, verify_package
from meristem.verification_settings import Forms, Opened, Request, open_all, request
from meristem.verification_sides import Subject, subject
from meristem.verification_steps import (
    compare_stored,
    follow,
    interface_of,
    recipes_of,
    training_of,
)
from meristem.verify import memory
from meristem.verify.expected import expected
from meristem.verify.inputs import Sample
from meristem.verify.numeric import (
    ALGEBRA_LIMIT,
    algebra,
    attempt,
    deployment,
    eps_of,
    scale_of,
    usable,
)
from meristem.verify.programs import Mean, Program
from meristem.verify.recipes import EPSILON, Recipes, Stored
from meristem.verify.repeats import Repeats, varies
from meristem.verify.report import LEVELS, Report, Verdict, joined, judge, not_checked
from meristem.verify.signature import class_outputs


def verify_models(
    model: Any,
    grown: Any,
    *,
    runtime: str | Sequence[str] = "onnxruntime",
    providers: Any = None,
    inputs: Any = None,
    dtypes: Any = None,
    optimizations: Any = None,
    sizes: Mapping[str, int] | None = None,
    layers: bool = False,
    seed: int = 0,
) -> Report:
    """Measure that ``grown`` computes what ``model`` does; docs/verify.md explains levels and settings.

    Both are Models or paths. Levels "algebra" and "training" need the plan that made ``grown`` from
    ``model``. ``runtime`` is one of onnxruntime, torch, torch.compile, aoti, onnx.reference, or
    several; ``providers`` are execution providers besides the CPU ("cuda"); ``optimizations`` those of ONNX
    Runtime (off, basic, all; default: off and all); ``dtypes`` float types of copies that are compared in
    place of the models ("float16"). ``inputs`` replace those that verification draws: tuples (in the order
    of the inputs) or dicts (by their names), something that yields them, or paths (verify/sources.py).
    ``sizes`` fix dynamic axes of drawn inputs ({"sequence": 2048}), ``seed`` draws others. With ``layers``
    the report says how values on the way agree also where nothing differs.

    Raises RuntimeUnavailable where a runtime or provider is asked for that is not there or runs nothing, or
    where nothing heeds what is asked for, SizeError where ``sizes`` or ``seed`` are given besides
    ``inputs``, CarrierError where inputs do not fit, or where the two models have different interfaces.
    """
    wanted = request(runtime, providers, dtypes, optimizations)
    check_drawn(inputs, sizes, seed)

    def samples_of(side: Subject) -> Samples:
        return given(side, inputs) if inputs is not None else drawn(side, sizes, seed)

    if packaged(model, grown):
        return verify_package(model, grown, samples_of, wanted, layers=layers)
    check = _Check(*_models(model, grown))
    samples = samples_of(check.old)
    if wanted.narrow and inputs is None:
        samples = samples.narrowed()
    levels = {
        "algebra": check.algebra(samples),
        "deployment": check.deployment(samples, wanted),
        "training": check.training(samples),
    }
    locate_in(
        levels,
        check.old,
        check.new,
        check.steps,
        samples.every,
        check.interface,
        always=layers,
        varies=check.varies(samples),
    )
    if check.decoding is not None:
        levels["decoding"] = check.decoding
    return Report({name: levels[name] for name in LEVELS if name in levels})


def _models(*sources: Any) -> list[Model]:
    from meristem.api import load

    return [s if isinstance(s, Model) else load(s) for s in sources]


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
        same_interface(self.old, self.new, self.interface, self.reason)
        self.script = EditScript(literals=[e for s in self.steps for e in s.script.literals])
        self.decoding: Verdict | None = None
        self._varies: str | None = None

    def recipes(self) -> Recipes:
        """What the plan says of every stored name."""
        return recipes_of(self.steps)

    def reference(self) -> Program:
        """The original in float64; of several models the mean of their outputs."""
        programs = [s.double() for s in (self.old, *self.others)]
        return programs[0] if len(programs) == 1 else Mean(programs)

    def varies(self, samples: Samples) -> str:
        """What two runs of the original in float64 on one input differ in; empty where nothing does, and
        where it cannot be evaluated."""
        if self._varies is None:
            self._varies = _varies(self.reference(), samples) if self.old.evaluates() else ""
        return self._varies

    def algebra(self, samples: Samples) -> Verdict:
        """Level 1."""
        if self.reason:
            return not_checked(self.reason)
        stored = Stored()
        weights = (memory.numbers(s.model.graph) for s in (self.old, self.new, *self.others))
        short = memory.lacking(
            memory.total(memory.WIDE * n for n in weights),
            "evaluating both models in float64",
            "the stored weights are as planned, one by one; compare on a larger machine",
        )
        try:
            compare_stored(self.steps, stored)
            if short:
                found = joined(not_checked(short), stored.measures, stored.failures)
                return not_checked(short) if not found.checked else found
            reference = self.reference()
            grown = self.new.double(self.recipes(), self.script)
        except CarrierError as error:
            stored.failures.append(str(error))
            return Verdict("differs", str(error), stored.measures)
        if not self.old.evaluates():
            return not_checked(
                f"the original cannot be evaluated in float64: {self.old.obstacle()}"
            )
        if self.varies(samples):
            found = joined(not_checked(self.varies(samples)), stored.measures, stored.failures)
            return found if found.checked else not_checked(found.reason)
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

    def deployment(self, samples: Samples, wanted: Request) -> Verdict:
        """Level 2."""
        short = self.short_of_memory(wanted)
        if short:
            return not_checked(short)
        with tempfile.TemporaryDirectory(prefix="meristem-verify-") as folder:
            forms = [
                Forms(s, Path(folder) / n) for s, n in ((self.old, "original"), (self.new, "grown"))
            ]
            opened = open_all(*forms, wanted)
            if not opened.settings and not opened.failures:
                return not_checked("; ".join(opened.refused) + self._instead(wanted))
            if not opened.settings:
                return judge([], exact=False, failures=opened.failures, notes=opened.refused)
            placement = opened.placement(samples.plain, self.interface.inputs)
            verdict = self._compared(samples, opened, *self._reference(samples, forms[0], wanted))
            self.decoding = decode(
                self.old, self.new, self.steps, self.reason, opened.settings, self.interface,
                self.varies(samples) or ("" if opened.settings else verdict.reason),
            )  # fmt: skip
        verdict.placement, verdict.differences = placement, opened.between.differences()
        verdict.notes += opened.between.notes()
        return verdict

    def _reference(
        self, samples: Samples, form: Forms, wanted: Request
    ) -> tuple[Program | None, list[str]]:
        """What deployment is measured against, and what is to be said of it: the original in float64, else
        its own run, in its own types where no copy is asked for that is as wide. None: that run is among
        the settings."""
        why = self.varies(samples) if self.old.evaluates() else self.old.obstacle()
        if not why:
            return self.reference(), []
        notes = [f"the reference is the original's own run: {why}"]
        copies = [EPSILON[d] for d in wanted.dtypes if d is not None]
        if not copies or min(copies) <= eps_of(EPSILON, self.old.dtypes()):
            return None, notes
        own = open_all(form, form, replace(wanted, dtypes=(None,), providers=None, levels=("all",)))
        return (own.settings[0].original if own.settings else None), notes

    def _compared(
        self, samples: Samples, opened: Opened, reference: Program | None, said: Sequence[str]
    ) -> Verdict:
        """Both models in the settings that could be opened; those in which the original varies are taken
        out of ``opened``."""
        notes, planned, repeats = [*samples.notes, *opened.refused, *said], None, Repeats()
        if self.approximate and not self.reason:
            planned = self.new.double(self.recipes(), self.script)
        eps = eps_of(EPSILON, self.old.dtypes())
        verdict = deployment(
            reference, opened.settings, samples.plain, self.interface, eps, notes, planned, repeats
        )
        opened.settings = [s for s in opened.settings if s.setting not in repeats.varying]
        opened.between.varying |= repeats.varying.keys()
        verdict = opened.settled(verdict)
        measures, failures = expected(
            opened.settings, samples.plain, samples.expected, self.interface, eps
        )
        return joined(verdict, measures, [*opened.failures, *failures])

    def short_of_memory(self, wanted: Request) -> str:
        """What is wrong where both models in every setting do not fit; else empty."""
        sizes = {"float64": 8, "float16": 2, "bfloat16": 2}
        both = sum(memory.stored(s.model.graph, sizes) for s in (self.old, self.new))
        return memory.lacking(
            memory.total([both * wanted.count()]),
            f"running both models in {wanted.count()} settings",
            'ask for fewer (optimizations="all", one dtype, one runtime) or compare on a larger machine',
        )

    def _instead(self, wanted: Request) -> str:
        asked = {r.name for r in wanted.runtimes}
        if self.old.trains and "torch" not in asked:
            return '; runtime="torch" compares the modules'
        return ""

    def training(self, samples: Samples) -> Verdict:
        """Level 3."""
        if self.reason:
            return not_checked(self.reason)
        if not self.old.trains:
            return not_checked(
                "an ONNX file has no gradients; the same plan on the torch model would be checked"
            )
        weights = [memory.numbers(s.model.graph) for s in (self.old, self.new)]
        short = memory.lacking(
            memory.total(3 * memory.WIDE * n for n in weights),  # weights, gradients, a step
            "following gradients in float64",
            "compare on a larger machine",
        )
        if short:
            return not_checked(short)
        if self.varies(samples):
            return not_checked(self.varies(samples))
        valid = [s for s in samples.plain if _valid(self.old.double(), s)][:3]
        if not valid:
            return not_checked("no input was valid; pass inputs=")
        for sample in valid:
            problem = attempt(self.new.double(), self.interface.inputs(sample))[1]
            if problem:
                return Verdict("differs", f"{sample}: the grown model fails: {problem}")
        try:
            return training_of(self.steps, valid)
        except CarrierError as error:
            return Verdict("differs", str(error))


def _valid(program: Program, sample: Sample) -> bool:
    got, problem = attempt(program, sample)
    return not problem and usable(got)


def _varies(program: Program, samples: Samples) -> str:
    """What differs between two runs on the first input that is valid."""
    for sample in samples.every:
        got, problem = attempt(program, sample)
        if not problem and usable(got):
            return varies(program, sample, got, [ALGEBRA_LIMIT * scale_of(y) for y in got])
    return ""


def _preserves(plan: Plan) -> bool:
    """Is the method of one growth exact?"""
    chosen = method(plan.method)
    return chosen.width.preserves and not chosen.order
