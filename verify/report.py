"""What a verification found: a verdict for each level, with the measured numbers and their limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from meristem.rewrite import notebook
from meristem.verify.locate import LayerAgreement
from meristem.verify.statistics import OutputStatistics, table

BIT_EXACT, NOISE_FLOOR = "bit-exact", "noise-floor"
DIFFERS, NOT_CHECKED = "differs", "not checked"
APPROXIMATE = "approximate"
LEVELS = ("algebra", "deployment", "decoding", "training")


@dataclass(frozen=True)
class Measure:
    """One number against its limit: ``error`` is the largest absolute difference of ``what``."""

    what: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """False for an error that is not a number."""
        return self.error <= self.limit

    @property
    def nearness(self) -> float:
        """The error as a part of the limit; beyond one by how much it is beyond, and infinite without a
        number."""
        if self.ok:
            return self.error / self.limit if self.limit else 0.0
        return float("inf") if self.error != self.error else 1e300 + self.error

    def __str__(self) -> str:
        sign = "<=" if self.ok else "> "
        return f"{self.what}: error {self.error:.2e} {sign} {self.limit:.2e}"


@dataclass
class Verdict:
    """The word for one level, why, the measurements, and the inputs that they were taken on.

    ``statistics`` are those of errors by output and setting, ``layers`` how values on the way agree (where
    the level differs, or where they were asked for), ``placement`` which nodes ran where by setting,
    ``differences`` how far two settings are from each other on the same model.
    """

    word: str
    reason: str = ""
    measures: list[Measure] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statistics: list[OutputStatistics] = field(default_factory=list)
    layers: list[LayerAgreement] = field(default_factory=list)
    placement: list[Any] = field(default_factory=list)
    differences: list[Any] = field(default_factory=list)

    @property
    def checked(self) -> bool:
        return self.word != NOT_CHECKED

    @property
    def worst(self) -> Measure | None:
        """The measurement that comes nearest to its limit, or is furthest beyond it.

        Stored tensors that are as planned are left aside: one rounding is always half of their limit.
        """
        shown = [m for m in self.measures if not (m.ok and m.what.startswith("stored "))]
        return max(shown, key=lambda m: m.nearness, default=None)

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


def judge(
    measures: Sequence[Measure],
    *,
    exact: bool,
    failures: Sequence[str] = (),
    inputs: Sequence[str] = (),
    notes: Sequence[str] = (),
    remark: str = "",
    errors: Sequence[Measure] = (),
) -> Verdict:
    """The verdict that measurements and plain failures amount to.

    ``exact`` says whether nothing differed in a single bit. ``remark`` explains a verdict that is not
    "differs". ``errors`` are those that a plan announces: they are reported and judged by nobody.
    """
    wrong = [*failures, *(str(m) for m in measures if not m.ok)]
    if errors and not wrong:
        largest = max(errors, key=lambda m: m.error / m.limit if m.limit else 0.0)
        reason = f"relative error {largest.error / largest.limit:.3g} in {largest.what}; {remark}"
        return Verdict(APPROXIMATE, reason, [*errors, *measures], list(inputs), list(notes))
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        word, reason = DIFFERS, wrong[0] + more
    else:
        word, reason = BIT_EXACT if exact else NOISE_FLOOR, remark
    return Verdict(word, reason, list(measures), list(inputs), [*wrong[1:], *notes])


def joined(verdict: Verdict, measures: Sequence[Measure], failures: Sequence[str]) -> Verdict:
    """A verdict with further measurements and plain failures; what is wrong among them decides."""
    wrong = [*failures, *(str(m) for m in measures if not m.ok)]
    out = replace(verdict, measures=[*verdict.measures, *measures])
    if not wrong:
        return out
    if verdict.word == DIFFERS:
        return replace(out, notes=[*verdict.notes, *wrong])
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return replace(out, word=DIFFERS, reason=wrong[0] + more, notes=[*wrong[1:], *verdict.notes])


def in_turn(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict of growths one after another: the worst of theirs, with what each says."""
    if len(verdicts) == 1:
        return verdicts[0]
    order = (DIFFERS, NOT_CHECKED, APPROXIMATE, NOISE_FLOOR, BIT_EXACT)
    worst = min(verdicts, key=lambda v: order.index(v.word))
    reasons = dict.fromkeys(v.reason for v in verdicts if v.word == worst.word)
    measures = [
        Measure(f"{m.what} (growth {i + 1})", m.error, m.limit)
        for i, v in enumerate(verdicts)
        for m in v.measures
    ]
    notes = [f"growth {i + 1}: {n}" for i, v in enumerate(verdicts) for n in v.notes]
    return Verdict(worst.word, "; ".join(reasons), measures, verdicts[0].inputs, notes)


def not_checked(reason: str) -> Verdict:
    """A level that was left out; it never counts as passed."""
    return Verdict(NOT_CHECKED, reason)


@dataclass
class Report:
    """The verdicts of a verification.

    ``levels`` maps "algebra" (float64), "deployment" (the file in its runtime), "decoding" (step by step,
    for models with a cache alone) and "training" (gradients) to verdicts. ``str(report)`` is for people,
    ``to_json`` for machines.
    """

    levels: dict[str, Verdict]

    @property
    def ok(self) -> bool:
        """The function was compared (gradients alone do not say what it is), and nothing differs but what
        the plan says ("approximate"). Levels that were not checked are not meant: ``headline`` names them.
        """
        compared = any(v.checked for n, v in self.levels.items() if n != "training")
        return compared and all(v.word != DIFFERS for v in self.levels.values())

    def __str__(self) -> str:
        lines = [self.headline]
        width = max(map(len, self.levels), default=0)
        for name, v in self.levels.items():
            lines.append(f"  {name:<{width}}  {v}")
            worst = v.worst
            if worst is not None and str(worst) not in v.reason:
                lines.append(f"  {'':<{width}}  nearest to its limit: {worst}")
            lines += [f"  {'':<{width}}  {row}" for row in table(v.statistics)]
            if v.inputs:
                lines.append(f"  {'':<{width}}  on {len(v.inputs)} inputs: {_short(v.inputs)}")
            lines += [f"  {'':<{width}}  note: {n}" for n in v.notes]
        return "\n".join(lines)

    @property
    def headline(self) -> str:
        """The report in one line: what was found, and which levels it does not rest on."""
        differ = self._levels(DIFFERS)
        if differ:
            return f"the function differs ({', '.join(differ)})"
        if not self.ok:
            return "the function could not be compared"
        planned = self._levels(APPROXIMATE)
        found = "another function, as the plan says" if planned else "the same function"
        left = self._levels(NOT_CHECKED)
        return f"{found} (as measured; not checked: {', '.join(left)})" if left else found

    def _levels(self, word: str) -> list[str]:
        """Names of the levels with this word."""
        return [n for n, v in self.levels.items() if v.word == word]

    def _repr_html_(self) -> str:
        """The report in a notebook: for each level its verdict, and what comes nearest to its limit."""
        rows = []
        for name, v in self.levels.items():
            near = v.worst
            numbers = (
                ("", "", "")
                if near is None
                else (f"{near.error:.1e}", f"{near.limit:.1e}", near.what)
            )
            rows.append((name, v.word, *numbers))
        columns = ("level", "verdict", ">error", ">limit", "where it comes nearest")
        reasons = [
            notebook.line(f"{n}: {v.reason}", muted=True)
            for n, v in self.levels.items()
            if v.reason
        ]
        title = f"{'✓' if self.ok else '✗'} {self.headline}"
        return notebook.box(title, notebook.table("what was measured", columns, rows), *reasons)

    def to_data(self) -> dict[str, Any]:
        """JSON-ready data: ``ok``, ``headline`` and, by level, word, reason, measures, inputs and notes."""
        return {
            "ok": self.ok,
            "headline": self.headline,
            "levels": {n: asdict(v) for n, v in self.levels.items()},
        }

    def to_json(self) -> str:
        """``to_data`` as text; numbers that are not finite are written as words."""
        return json.dumps(_finite(self.to_data()), indent=1)


def _short(inputs: Sequence[str]) -> str:
    return ", ".join(inputs[:3]) + (", ..." if len(inputs) > 3 else "")


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _finite(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_finite(v) for v in x]
    if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))):
        return str(x)
    return x


__all__ = ["LEVELS", "Measure", "Report", "Verdict", "in_turn", "joined", "judge", "not_checked"]
