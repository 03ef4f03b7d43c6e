"""Plans: what a growth does, as pure data. Names, sizes, strategies, recipes, reports; JSON both ways.

A plan speaks of names only, so a plan made on a torch model serves its ONNX export: binding it to a
carrier resolves the names there and repeats the proof.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from meristem.rewrite.errors import CarrierError
from meristem.rewrite.expansion import Expansion, Fill, Split
from meristem.rewrite.lift import Lift, mapped
from meristem.rewrite.notebook import box, line, table

VERSION = 1
_WRITE = "write one with meristem grow --save-plan, or plan.to_json()"


@dataclass(frozen=True)
class Change:
    """One dimension's growth. ``strategies`` are those of its atoms; empty for depth."""

    name: str
    kind: str
    place: str
    before: int
    after: int
    strategies: tuple[str, ...] = ()


@dataclass
class Plan:
    """A growth: request and options, changes, recipes of weights by name, and the reports.

    ``added`` lists run-time operators that the growth adds; ``proof`` says for each operator that mixes
    new coordinates what it needed and how that is met; ``locked`` names weights whose copies stay equal
    under training; ``approximate`` says what does not preserve the function; ``saddles`` products whose
    new weights could never train; ``unused`` weights that the model carries without using; ``maps`` are
    learned matrices by name (``rewrite.maps``), which its recipes name; ``moves`` are names of
    weights that new layers push on (new name -> old name), which ``clones`` has too; ``statistics`` are
    means and variances that were measured on batches, packed, by dimension (``meristem.measuring``).

    ``stages`` are plans of growths one after another, each of the model that the one before gives; then
    this plan holds the request and the reports of all, and recipes are those of its stages.
    """

    sizes: dict[str, int]
    method: str = "preserve"
    boundary: str = "pin"
    compensate: str = "graph"
    at: Any = "end"
    seed: int = 0
    changes: list[Change] = field(default_factory=list)
    weights: dict[str, Expansion] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    saddles: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    clones: dict[str, tuple[str, str]] = field(default_factory=dict)
    approximate: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    maps: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, str] = field(default_factory=dict)
    stages: list[Plan] = field(default_factory=list)

    @property
    def steps(self) -> list[Plan]:
        """The growths that this plan carries out, in order: its stages, or itself."""
        return self.stages or [self]

    def join(self, stages: Sequence[Plan]) -> None:
        """Take plans as the stages of this one, with their reports."""
        self.stages = list(stages)
        for name in _REPORTS:
            rows = [row for s in stages for row in getattr(s, name)]
            setattr(self, name, rows if name == "changes" else list(dict.fromkeys(rows)))
        self.given, self.statistics = {}, {}

    @property
    def learned(self) -> dict[str, str]:
        """The ``maps`` of all its growths."""
        return {name: text for p in self.steps for name, text in p.maps.items()}

    @property
    def measured(self) -> dict[str, str]:
        """The ``statistics`` of all its growths."""
        return {name: text for p in self.steps for name, text in p.statistics.items()}

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that repeat this plan, but for what was learned or ``measured``."""
        return {
            "method": self.method,
            "boundary": self.boundary,
            "compensate": self.compensate,
            "at": self.at,
            "seed": self.seed,
            "given": {name: entry for p in self.steps for name, entry in p.given.items()},
        }

    def check(self, proved: Plan, stored: Mapping[str, str]) -> None:
        """Compare what one growth grows with what the proof grows in a model with the ``stored`` weights.

        ``stored`` maps every name of a stored weight to the one that its recipe has there: tied weights
        have one recipe under one of their names. Growing axes are compared without their order, for
        carriers store some weights transposed, and weights that one carrier alone has are left out.

        Fills and factors are not compared: the proof gives them anew.

        Raises CarrierError where a weight grows here and not, or otherwise, by the proof.
        """
        pairs = [
            (self.weights[n], proved.weights.get(stored[n])) for n in self.weights if n in stored
        ]
        wrong = sorted(ours.name for ours, theirs in pairs if _grown(ours) != _grown(theirs))
        if not self.weights:
            wrong = sorted(proved.weights)
        if wrong:
            name = wrong[0]
            raise CarrierError(
                f"the plan does not fit this model: {name} goes {_words(self.weights.get(name))} in the "
                f"plan and {_words(proved.weights.get(stored[name]))} by the proof"
                + (f" (and {len(wrong) - 1} other weights)" if wrong[1:] else "")
                + "; make the plan again from this model, or from another export of the same one",
                weights=wrong,
            )

    def check_models(self, count: int) -> None:
        """Raises CarrierError where the plan fuses with more or fewer other models than ``count``."""
        weights = [e for p in self.steps for e in p.weights.values()]
        numbers = {
            int(n) for e in weights for n, mark, _ in (d.partition(":") for d in e.donors)
            if mark and n.isdigit()
        }  # fmt: skip
        if weights and max(numbers, default=0) != count and (numbers or count):
            raise CarrierError(
                f"the plan fuses with {max(numbers, default=0)} other models, and models= holds {count}; "
                "give those that it was made with (on the command line --model, for each)"
            )

    def explain(self) -> str:
        """The plan as a person reads it."""
        if self.stages:
            count = len(self.stages)
            parts = [f"stage {i + 1} of {count}:\n{s.explain()}" for i, s in enumerate(self.stages)]
            return "\n\n".join(parts)
        lines = [
            f"{c.name}: {c.before} -> {c.after}"
            + (f"  ({', '.join(c.strategies)})" if c.strategies else "")
            for c in self.changes
        ]
        lines.append(
            f"{len(self.weights)} weights grow or change, {len(self.clones)} are new with new blocks"
        )
        for title, rows in (
            ("does not preserve the function", _by_place(self.approximate)),
            ("proof", _by_place(self.proof)),
            ("constants", self.constants),
            ("operators added at run time", self.added),
            ("locked twins", self.locked),
            ("new weights that cannot train", self.saddles),
            ("weights without users, carried along", self.unused),
            ("notes", self.notes),
        ):
            if rows:
                lines.append(f"{title}:")
                lines += [f"  {r}" for r in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The plan in a notebook: what grows and how; ``explain`` says all."""
        rows = [
            (c.name, c.before, c.after, ", ".join(c.strategies) or "new blocks")
            for c in self.changes
        ]
        weights = len({n for p in self.steps for n in p.weights})
        parts = [
            table("what grows", ("dimension", ">before", ">after", "how"), rows),
            line(
                f"{weights} weights grow or change; {len(self.proof)} obligations are met",
                muted=True,
            ),
        ]
        parts += [line(f"does not preserve the function: {row}") for row in self.approximate[:3]]
        return box(f"Plan: {self.method}", *parts)

    def to_json(self) -> str:
        """Stable text; ``from_json`` gives the plan back."""
        return json.dumps({"meristem_plan": VERSION, **_data(self)}, indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan; CarrierError where the text is not one."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or "meristem_plan" not in data:
                raise CarrierError(
                    f"this is not a meristem plan: it has no meristem_plan; {_WRITE}"
                )
            if data.pop("meristem_plan") != VERSION:
                raise CarrierError("the plan was written by another version; make it again")
            return _from(data)
        except KeyError as error:
            raise CarrierError(
                f"this is not a meristem plan: it has no {error}; {_WRITE}"
            ) from error
        except (json.JSONDecodeError, TypeError, ValueError) as error:
            raise CarrierError(f"this is not a meristem plan: {error}; {_WRITE}") from error


# What the stages of a plan report, row by row.
_REPORTS = (
    "changes", "constants", "added", "proof", "locked", "saddles", "unused", "refusals", "approximate",
    "notes",
)  # fmt: skip

# What a plan's JSON must hold; the rest is read piece by piece.
_TYPES: dict[str, type] = {
    "sizes": dict,
    "weights": dict,
    "clones": dict,
    "maps": dict,
    "given": dict,
    "moves": dict,
    "statistics": dict,
    "changes": list,
    "stages": list,
    "method": str,
    "boundary": str,
    "compensate": str,
    "seed": int,
}


def _data(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-ready data; recipes name the matrices that the plan holds."""
    weights = {n: {**expansion_data(e), "maps": sorted(e.maps)} for n, e in plan.weights.items()}
    stages = [_data(s) for s in plan.stages]
    return {**asdict(replace(plan, weights={}, stages=[])), "weights": weights, "stages": stages}


def _from(data: Any) -> Plan:
    """The plan behind ``_data``."""
    _check_types(data)
    data["changes"] = [
        Change(**{**c, "strategies": tuple(c["strategies"])}) for c in data["changes"]
    ]
    data["weights"] = {
        n: expansion_from({**e, "maps": {k: data["maps"][k] for k in e["maps"]}})
        for n, e in data["weights"].items()
    }
    data["clones"] = {n: (s, h) for n, (s, h) in data["clones"].items()}
    data["stages"] = [_from(s) for s in data.get("stages", [])]
    return Plan(**data)


def _check_types(data: Any) -> None:
    if not isinstance(data, dict):
        raise TypeError(f"it holds {type(data).__name__}, not an object")
    for name, kind in _TYPES.items():
        if name in data and not isinstance(data[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")


def _grown(recipe: Expansion | None) -> list[tuple[int, int]]:
    """(old, new) of the axes that grow."""
    return sorted((a.old_size, a.size) for a in recipe.axes if a.grows) if recipe else []


def _words(recipe: Expansion | None) -> str:
    return f"from {recipe.old_shape} to {recipe.shape}" if recipe else "unchanged"


def expansion_data(e: Expansion) -> dict[str, Any]:
    """A recipe as JSON-ready data."""
    return {
        "name": e.name,
        "axes": [a.term for a in e.axes],
        "fills": [
            [list(i), f.kind, f.digit, list(f.source), [list(p) for p in f.pairs], f.key, f.data]
            for i, f in e.fills.items()
        ],
        "scales": [[list(i), s] for i, s in e.scales.items()],
        "shift": e.shift,
        "seed": e.seed,
        "progression": e.progression,
        "split": [e.split.unequal, e.split.noise],
        "donors": list(e.donors),
        "blend": e.blend,
        "maps": e.maps,
        "rule": [e.rule, *e.along],
        "mix": list(e.mix),
        "quiet": [list(i) for i in e.quiet],
    }


def expansion_from(data: dict[str, Any]) -> Expansion:
    """The recipe behind ``expansion_data``."""
    return Expansion(
        data["name"],
        tuple(Lift(_term(t)) for t in data["axes"]),
        {
            tuple(i): Fill(kind, digit, tuple(source), tuple((k, s) for k, s in pairs), key, given)
            for i, kind, digit, source, pairs, key, given in data["fills"]
        },
        {tuple(i): float(s) for i, s in data["scales"]},
        data["shift"],
        data["seed"],
        data["progression"],
        Split(*map(float, data["split"])),
        tuple(map(str, data["donors"])),
        str(data["blend"]),
        {str(k): str(v) for k, v in data["maps"].items()},
        str(data["rule"][0]),
        tuple(int(a) for a in data["rule"][1:]),
        tuple(map(float, data["mix"])),
        tuple(tuple(map(int, i)) for i in data["quiet"]),
    )


def _term(data: Sequence[Any]) -> Any:
    return mapped(data, lambda d: (d[0], int(d[1]), int(d[2]), *map(str, d[3:])))


def _by_place(rows: Sequence[str]) -> list[str]:
    """Rows that differ in the numbers of repeated modules alone, once."""
    count = Counter(re.sub(r"(?<=\.)\d+(?=[. ])", "*", r) for r in rows)
    return [r if n == 1 else f"{r} ({n} places)" for r, n in count.items()]
