"""Where two models part: values on the way, old coordinates of the grown ones against the original's.

Both run in float64 and show every value. The original's are kept while the grown model runs, but for
what is only moved about of the weights. A value is compared where both graphs have it under one name,
made by one native operator, and the lifts give the original's back (``verify.lifts``); all others are
counted. The first in the original's order that differs is where the function parts: everything that it
is computed from agrees, or has no counterpart, and then the weights behind that are named too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, log10

import numpy as np

from meristem.rewrite.graph import Array, Graph, Input, Literal, Op, Value, Weight
from meristem.verify.statistics import distances, largest

# Relative to the value's largest magnitude, as level 1 measures outputs.
LIMIT = 1e-10
# A value that nearly vanishes (a difference of like numbers) is off by the rounding of its operands.
OPERANDS = 1e-3
_MOVES = frozenset(
    ("identity", "cast", "permute", "reshape", "slice", "concat", "expand", "rearrange", "pad")
)


@dataclass(frozen=True)
class LayerAgreement:
    """How one value on the way agrees, in float64.

    ``value`` is its name in the original, ``op`` the operator that makes it, ``place`` the module path or
    repeated block that it is in. ``error`` is the largest absolute difference between the old coordinates
    of the grown value (without the factor that they carry) and the original's, ``scale`` the largest
    magnitude of the original's, ``sqnr`` is in dB. ``located``: does the function part here, before
    anything that it computes from? Then ``weights`` are those that feed the operator.
    """

    value: str
    op: str
    place: str
    error: float
    scale: float
    sqnr: float
    located: bool = False
    weights: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.op} in {self.place}" if self.place else self.op
        fed = f", fed by {_several(self.weights)}" if self.weights else ""
        return f"{self.value} by {where}: error {self.error:.2e} where the largest is {self.scale:.2e}{fed}"


# What runs in float64 and shows its values: name, native operator, numbers.
Run = Callable[[Callable[[str, str, Array], None]], None]
# Old coordinates of a grown value, by its name; None where they are not known.
Undo = Callable[[str, Array], Array | None]
# What the original gives and the old coordinates of what the grown model gives, output by output.
Ends = Callable[[], Sequence[tuple[Array, Array]]]


@dataclass
class Located:
    """What a comparison by values found.

    ``layers`` has the last value of every place, and the first that differs; ``skipped`` counts values
    without a counterpart, ``problem`` is what stopped the grown model.
    """

    layers: list[LayerAgreement] = field(default_factory=list)
    compared: int = 0
    skipped: int = 0
    problem: str = ""

    @property
    def first(self) -> LayerAgreement | None:
        """Where the function parts; None where no value that could be compared differs."""
        return next((a for a in self.layers if a.located), None)

    def notes(self, sample: str) -> list[str]:
        """In words."""
        count = f"{self.compared} values on the way were compared on {sample}"
        left = f", {self.skipped} have no counterpart" if self.skipped else ""
        if self.first is not None:
            return [f"first differs: {self.first}", count + left]
        if self.problem:
            return [self.problem, count + left]
        return [f"no value on the way differs in float64: {count}{left}"]


def locate(graph: Graph, original: Run, grown: Run, undo: Undo, ends: Ends) -> Located:
    """Run both and compare. ``graph`` is the original's view.

    Outputs that have no counterpart by name and operator are compared as what they are, by their ``ends``:
    so nothing differs unseen, whatever the grown model makes them by.
    """
    compared = _compared(graph)
    old: dict[str, tuple[str, Array]] = {}

    def keep(name: str, made: str, array: Array) -> None:
        if name in compared:
            old[name] = made, array

    original(keep)
    agreements: dict[str, LayerAgreement] = {}
    scales = {name: largest(a) for name, (_, a) in old.items()}
    last, others = "", dict[str, str]()

    def compare(name: str, made: str, array: Array) -> None:
        nonlocal last
        if name not in old:
            return
        last = name
        operator, expected = old[name]
        if operator != made:
            others[name] = f" ({made} in the grown model)"
        got = undo(name, array) if operator == made else None
        if got is not None and got.shape == expected.shape:
            del old[name]
            agreements[name] = _agreement(compared[name], expected, got)

    out = Located()
    try:
        grown(compare)
    except Exception as error:  # every kernel has its own; the text is reported
        out.problem = _stopped(compared, last, error)
    made = [v for _, v in graph.outputs]
    for value, pair in zip(made, ends() if not out.problem else (), strict=False):
        if value.name in old and pair[0].shape == pair[1].shape:
            del old[value.name]
            found = _agreement(compared[value.name], *pair)
            agreements[value.name] = replace(found, op=found.op + others.get(value.name, ""))
    out.compared = len(agreements)
    out.skipped = len(old)
    out.layers = _layers(compared, agreements, scales)
    return out


def _stopped(compared: Mapping[str, Value], last: str, error: Exception) -> str:
    """What stopped the grown model, and behind which value."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    made = compared[last].producer if last else None
    behind = f" behind {last} ({made.where})" if made is not None else ""
    return f"the grown model stops{behind}: {text}"


def _compared(graph: Graph) -> dict[str, Value]:
    """Values that operators make, by name, in order; not what is only moved of the stored tensors."""
    moved: set[Value] = set()
    out: dict[str, Value] = {}
    for op in graph.ops:
        if op.kind in _MOVES and all(
            isinstance(v, (Weight, Literal)) or v in moved for v in op.inputs
        ):
            moved.update(op.outputs)
        else:
            out |= {v.name: v for v in op.outputs}
    return out


def _agreement(value: Value, expected: Array, got: Array) -> LayerAgreement:
    op = value.producer
    assert op is not None
    error = distances(expected, got)
    signal, noise = _norm(expected), float(np.linalg.norm(error))
    sqnr = (
        inf if noise == 0.0 else -inf if noise == inf or not signal else 20 * log10(signal / noise)
    )
    worst = float(error.max(initial=0.0))
    return LayerAgreement(
        value.name, op.origin or op.kind, op.place, worst, largest(expected), sqnr
    )  # fmt: skip


def _layers(
    compared: Mapping[str, Value],
    agreements: Mapping[str, LayerAgreement],
    scales: Mapping[str, float],
) -> list[LayerAgreement]:
    first = next(
        (n for n in compared if n in agreements and _differs(compared[n], agreements[n], scales)),
        None,
    )
    last = {a.place: n for n, a in agreements.items()}
    shown = []
    for name in compared:
        if name == first:
            fed = _feeding(compared[name], agreements)
            shown.append(replace(agreements[name], located=True, weights=fed))
        elif name in agreements and last[agreements[name].place] == name:
            shown.append(agreements[name])
    return shown


def _differs(value: Value, found: LayerAgreement, scales: Mapping[str, float]) -> bool:
    if not value.is_float:
        return found.error > 0.0
    assert value.producer is not None
    operands = max((scales.get(v.name, 0.0) for v in value.producer.inputs), default=0.0)
    return not found.error <= LIMIT * max(found.scale, OPERANDS * operands)


def _feeding(value: Value, agreements: Mapping[str, LayerAgreement]) -> tuple[str, ...]:
    """Weights that an operator reads, straight or through values that could not be compared."""
    found: dict[str, None] = {}
    seen: set[Op] = set()
    waiting = [value.producer]
    while waiting:
        op = waiting.pop()
        if op is None or op in seen:
            continue
        seen.add(op)
        for v in op.inputs:
            if isinstance(v, Weight):
                found[v.name] = None
            elif not isinstance(v, (Literal, Input)) and v.name not in agreements:
                waiting.append(v.producer)
    return tuple(found)


def _norm(a: Array) -> float:
    wide = np.asarray(a, np.float64)
    return float(np.linalg.norm(wide[np.isfinite(wide)]))


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


__all__ = ["LIMIT", "LayerAgreement", "Located", "locate"]
