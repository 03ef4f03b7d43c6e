"""A page's content, brought together from a model, its growth, and what was measured or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from meristem.pages import charts, commands, words
from meristem.pages.drawing import Drawing, draw
from meristem.pages.evidence import obligations_of, table
from meristem.pages.growth import Growth, alike
from meristem.pages.parts import find_picture
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.equations import Equations
from meristem.rewrite.flops import Flops, count_flops
from meristem.rewrite.graph import Graph
from meristem.rewrite.methods import method
from meristem.rewrite.plan import Plan
from meristem.rewrite.stacks import Stack

# Rows of a level that a page shows; what is further from its limit is counted.
MOST_MEASURES, MOST_CHARTS, MOST_LAYERS = 12, 12, 200


@dataclass
class Side:
    """One model: its view and what was found in it. ``carrier`` is "torch" or "onnx"."""

    graph: Graph
    equations: Equations
    stacks: Sequence[Stack]
    dimensions: Sequence[Dimension]
    parameters: int
    carrier: str

    @property
    def flops(self) -> Flops:
        return count_flops(self.graph)


@dataclass
class Content:
    """What a page is about. ``shown`` is the model (after its growth, where there was one), ``before`` the
    one that grew; ``verification`` is a ``verify.report.Report``; ``refusal`` the error of a request that
    was refused; ``command`` what was typed, where that is known; ``versions`` are (name, version);
    ``request`` are the sizes that were asked for, ``files`` the paths of both models ("-" is a pipe),
    ``compared`` what a verification of two files was given."""

    title: str
    shown: Side
    before: Side | None = None
    plan: Plan | None = None
    verification: Any = None
    refusal: Exception | None = None
    command: str = ""
    notes: Sequence[str] = ()
    versions: Sequence[tuple[str, str]] = ()
    made: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, str] | None = None
    compared: commands.Compared | None = None


def assemble(c: Content) -> dict[str, Any]:
    """Everything that the template reads."""
    source = c.before or c.shown
    growth = Growth(c.plan, c.before.dimensions if c.before else ())
    s = c.shown
    picture = find_picture(s.graph, s.equations, s.stacks, s.dimensions, growth)
    proof = c.plan.proof if c.plan else []
    about = obligations_of(source.graph, source.equations, source.dimensions, proof)
    return {
        "title": c.title,
        "made": c.made,
        "carrier": s.carrier,
        "drawing": draw(picture),
        "costs": _costs(c),
        "flops": _flops_notes(c),
        "changes": _changes(growth),
        "plan": _plan(c.plan),
        "pinned": _pinned(source.dimensions),
        "refusal": _refusal(c.refusal),
        "verdict": _verdict(c),
        "levels": _levels(c.verification),
        "table": table(s.dimensions, growth, about),
        "notes": list(c.notes),
        "commands": _commands(c, source),
        "versions": list(c.versions),
    }


# -- numbers ---------------------------------------------------------------------------------------


def _costs(c: Content) -> list[dict[str, Any]]:
    """Parameters and FLOPs, before and after."""
    out = []
    after = {"parameters": c.shown.parameters, "FLOPs of one run": c.shown.flops.total}
    before = {}
    if c.before:
        before = {"parameters": c.before.parameters, "FLOPs of one run": c.before.flops.total}
    for name, value in after.items():
        was = before.get(name)
        factor = f"× {value / was:.3g}" if was else ""
        out.append({"name": name, "before": was, "after": value, "factor": factor})
    return out


def _flops_notes(c: Content) -> list[str]:
    """At which shapes FLOPs were counted, what is in them and what is not."""
    flops = c.shown.flops
    at = ", ".join(f"{n} {list(s)}" for n, s in list(flops.inputs.items())[:3]) or "no inputs"
    more = f" and {len(flops.inputs) - 3} more" if len(flops.inputs) > 3 else ""
    out = [
        f"counted on the program at {at}{more}: products of matrices and convolutions, 2 for every "
        "multiplication with its addition; sums, norms and activations are left out, as by torch"
    ]
    if c.before and dict(c.before.flops.inputs) != dict(flops.inputs):
        out.append("the two models were counted at other shapes, so their FLOPs do not compare")
    if flops.unknown:
        named = ", ".join(f"{n} ({k})" for n, k in flops.unknown.items())
        out.append(f"not counted, for nothing is known of them: {named}; the count is too low")
    return out


# -- growth ----------------------------------------------------------------------------------------


def _changes(growth: Growth) -> list[dict[str, Any]]:
    """What grew; dimensions that differ in the numbers of blocks alone share a row."""
    depth = method(growth.plan.method).depth if growth.plan else "identity"
    return [
        {
            "kind": c.kind,
            "place": place,
            "before": c.before,
            "after": c.after,
            "strategy": ", ".join(c.strategies) or "new blocks",
            "why": words.how(c.kind, c.strategies, depth),
        }
        for c, place in alike(c for c in growth.changes.values() if c.after != c.before)
    ]


def _plan(plan: Plan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    weights = len({n for p in plan.steps for n in p.weights})
    new = len({n for p in plan.steps for n in p.clones} - {n for p in plan.steps for n in p.moves})
    exact = not plan.approximate
    sections = (
        ("Does not preserve the function", plan.approximate),
        ("Constants of the program", plan.constants),
        ("Operators that are added", plan.added),
        ("Copies that training keeps equal", plan.locked),
        ("New weights that cannot train", plan.saddles),
        ("Weights without users, carried along", plan.unused),
        ("Notes", plan.notes),
    )
    return {
        "weights": weights,
        "new": new,
        "exact": exact,
        "stages": len(plan.stages),
        "proof": _rows(plan.proof),
        "refusals": _rows(plan.refusals),
        "sections": [(title, _rows(rows)) for title, rows in sections if rows],
        "seed": plan.seed,
        "explain": plan.explain(),
    }


def _rows(lines: Iterable[str]) -> list[str]:
    found = words.merged(list(lines))
    return [line if n == 1 else f"{line} ({n} places)" for line, n in found]


def _pinned(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """What cannot grow and why, in groups."""
    groups: dict[tuple[str, str, str], list[Dimension]] = {}
    for d in dimensions:
        if d.pinned is not None:
            key = (d.kind, words.pattern(d.place), words.pattern(d.pinned))
            groups.setdefault(key, []).append(d)
    return [
        {
            "kind": kind,
            "place": words.places([d.place for d in own]),
            "sizes": ", ".join(map(str, sorted({d.size for d in own})[:4])),
            "reason": own[0].pinned if len(own) == 1 else reason,
            "lifted": all(d.boundary for d in own),
        }
        for (kind, _, reason), own in groups.items()
    ]


def _refusal(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    facts = getattr(error, "facts", {})
    plain = {k: v for k, v in facts.items() if isinstance(v, (str, int, float)) and str(v)}
    return {"kind": type(error).__name__, "message": str(error), "facts": plain}


# -- verification ----------------------------------------------------------------------------------


def _verdict(c: Content) -> dict[str, str]:
    """The page in one word and one sentence."""
    if c.refusal is not None:
        return {"sign": "✗", "style": "bad", "text": "refused: nothing was grown"}
    report = c.verification
    if report is None:
        if c.plan is None:
            return {"sign": "", "style": "plain", "text": "what can grow, and what pins the rest"}
        proved = "proved to compute the same; not measured on this page"
        text = (
            proved if not c.plan.approximate else "another function, as the plan says; not measured"
        )
        return {"sign": "–", "style": "plain", "text": text}
    text = report.headline
    if not report.ok:
        return {"sign": "✗", "style": "bad", "text": text}
    exact = all(v.word != "approximate" for v in report.levels.values())
    return {"sign": "✓" if exact else "≈", "style": "good" if exact else "near", "text": text}


def _levels(report: Any) -> list[dict[str, Any]]:
    return [_level(name, v) for name, v in report.levels.items()] if report is not None else []


def _level(name: str, v: Any) -> dict[str, Any]:
    """One level; what comes nearest to its limit stands first."""
    measures = sorted(v.measures, key=_nearness, reverse=True)
    statistics, layers = list(v.statistics), list(v.layers)
    located = [x for x in layers if x.located]
    found = charts.points(layers)
    return {
        "name": name,
        "word": v.word,
        "sign": words.SIGNS[v.word],
        "style": {"differs": "bad", "approximate": "near", "not checked": "plain"}.get(
            v.word, "good"
        ),
        "about": words.LEVELS[name],
        "meaning": words.VERDICTS[v.word],
        "reason": v.reason,
        "measures": measures[:MOST_MEASURES],
        "left": len(measures) - MOST_MEASURES,
        "inputs": list(v.inputs),
        "notes": list(v.notes),
        "statistics": statistics,
        "histograms": [(x, charts.bars(x.histogram)) for x in statistics[:MOST_CHARTS]],
        "charts_left": len(statistics) - MOST_CHARTS,
        "layers": [(x, charts.relative_error(x)) for x in (located + layers)[:MOST_LAYERS]],
        "layers_left": len(located + layers) - MOST_LAYERS,
        "points": found,
        "path": charts.path(found),
        "placement": list(v.placement),
    }


def _nearness(m: Any) -> float:
    """Stored tensors that are as planned come last: one rounding is always half of their limit."""
    planned = m.ok and m.what.startswith("stored ")
    return float(m.nearness) - 2 * planned


# -- again -----------------------------------------------------------------------------------------


def _commands(c: Content, source: Side) -> dict[str, Any]:
    sizes = c.request or (commands.sizes_of(c.plan, source.dimensions) if c.plan else {})
    options = commands.options_of(c.plan) if c.plan else {}
    verified = c.verification is not None
    files = commands.named(c.files, source.carrier)
    again = commands.python(
        files, sizes, options, traced=source.carrier == "torch", verified=verified,
        compared=c.compared if verified else None,
    )  # fmt: skip
    needed = commands.needs(c.plan) if c.plan and not c.compared else []
    return {
        "shell": c.command or commands.shell(files, sizes, options, verified=verified),
        "python": again,
        "needs": [*commands.piped(c.files, files, again), *needed],
        "seed": c.plan.seed if c.plan else None,
    }


__all__ = ["Content", "Drawing", "Side", "assemble"]
