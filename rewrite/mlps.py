"""Where the units of an MLP are made and summed: what a mixture of experts takes the place of.

The units are the axis of an ``mlp`` dimension. Walking back from the contraction that sums over them ends
at the contractions that make them; what these read is the entry, and the sum with its bias is the exit.
Plain and gated MLPs, fused or not, are all of that form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Literal, Op, Value, Weight
from meristem.rewrite.recognise import weight_of
from meristem.rewrite.residual import SAME, Streams
from meristem.rewrite.steps import Block, Steps

_MIXES = ("contract", "conv", "grouped_contract")
# Between an expert's result and the weight that a router gives it.
_GATED = ("mul", "reshape", "permute", "cast", "identity", "expand", "concat", "add", "sum")
_NEAR = 64


@dataclass(frozen=True)
class Mlp:
    """One MLP: its dimension, and the region from entry to exit, or why it cannot become a mixture."""

    dimension: Dimension
    block: Block | None
    reason: str = ""

    @property
    def name(self) -> str:
        """Of its number of experts, as dimensions are named: ``experts@place``."""
        return self.dimension.name.replace("mlp", "experts", 1)

    @property
    def home(self) -> str:
        """The module path that router and experts are put under."""
        place, number = self.dimension.place, self.name.partition("#")[2]
        return ".".join(p for p in (place, f"mixture{number}" if number else "") if p)


class Unfit(Exception):
    """Why an MLP cannot become a mixture."""


def find_mlps(graph: Graph, eq: Equations, dimensions: Iterable[Dimension]) -> list[Mlp]:
    """Every MLP of a graph, in order; ``dimensions`` are the graph's own."""
    own = [d for d in dimensions if d.kind == "mlp"]
    if not own:
        return []
    finder = _Finder(graph, eq)
    out = []
    for d in own:
        try:
            out.append(Mlp(d, finder.region(d)))
        except Unfit as why:
            out.append(Mlp(d, None, str(why)))
    return out


class _Finder:
    def __init__(self, graph: Graph, eq: Equations) -> None:
        self.graph, self.eq = graph, eq
        self.steps = Steps(Streams(graph, eq))

    def region(self, d: Dimension) -> Block:
        """What lies between entry and exit; Unfit where there is no such region."""
        units = {a for a in atoms_of(d.term) if a.size > 1}
        downs = [op for op in self.graph.ops if self._sums(op, units)]
        if len(downs) != 1:
            places = ", ".join(dict.fromkeys(op.where for op in downs))
            raise Unfit(
                f"its units are summed in {len(downs)} places"
                + (f" ({places})" if places else "")
                + ", and a mixture takes the place of one sum"
            )
        entry = self._entry(downs[0], units)
        exit_ = self._exit(downs[0], entry)
        block = self.steps.block(entry, exit_)
        self._check(block, downs[0])
        return block

    # -- the sum over the units ------------------------------------------------------------------

    def _sums(self, op: Op, units: set[Term]) -> bool:
        if op.kind not in _MIXES:
            return False
        if op.kind != "contract":
            return weight_of(op.inputs[1]) is not None and self._has(op.inputs[0], units)
        a, b, out = op.attrs["labels"]
        for own, other, v in ((a, b, op.inputs[0]), (b, a, op.inputs[1])):
            for k, t in zip(own, self.eq.of(v), strict=True):
                if k in other and k not in out and units.intersection(atoms_of(t)):
                    return True
        return False

    def _has(self, v: Value, units: set[Term]) -> bool:
        return any(a in units for t in self.eq.of(v) for a in atoms_of(t))

    # -- both ends -------------------------------------------------------------------------------

    def _entry(self, down: Op, units: set[Term]) -> Value:
        """What the contractions that make the units read."""
        entries: dict[Value, None] = {}
        stack = [_activation(down)]
        seen: set[Value] = set()
        while stack:
            v = stack.pop()
            if v in seen or isinstance(v, (Weight, Literal)) or not self._has(v, units):
                continue
            seen.add(v)
            op = v.producer
            if op is None:
                raise Unfit(f"its units are the input {v.name}")
            made = op.kind in _MIXES and weight_of(_activation(op)) is None
            if made and not self._has(_activation(op), units):
                if op.kind != "contract" or not _last(op):
                    raise Unfit(f"{op.where} does not make its units from the last axis")
                entries.setdefault(_activation(op))
            else:
                stack.extend(op.inputs)
        found = list(entries)
        while len(set(found)) > 1 and any(_moved(v) for v in found):
            late = max((v for v in found if _moved(v)), key=self.steps.streams.index)
            found[found.index(late)] = late.producer.inputs[0]  # type: ignore[union-attr]
        if len(set(found)) != 1:
            raise Unfit(f"its units are made from {len(set(found))} values, and a router reads one")
        return found[0]

    def _exit(self, down: Op, entry: Value) -> Value:
        """The result of the sum, with its bias, in the layout of the entry."""
        if down.kind != "contract" or not _last(down):
            raise Unfit(f"{down.where} does not sum over the last axis")
        v = down.output
        while len(v.uses) == 1:
            op = v.uses[0][0]
            same = op.native is not None and op.native is down.native
            other = [x for x in op.inputs if x is not v]
            biased = op.kind == "add" and _bias(other)
            turned = op.kind == "reshape" and v.shape[:-1] != entry.shape[:-1]
            if not (same or biased or turned):
                break
            v = op.output
        if v.shape[:-1] != entry.shape[:-1]:
            raise Unfit(
                f"its result {list(v.shape)} has other axes than what it reads, {list(entry.shape)}, so "
                "that a token is not the same in both"
            )
        return v

    # -- what must hold of the region ------------------------------------------------------------

    def _check(self, block: Block, down: Op) -> None:
        inside = set(block.ops)
        for op in block.ops:
            for v in op.inputs:
                w = weight_of(v)
                if w is not None and w.role == "parameter" and w not in block.weights:
                    raise Unfit(
                        f"{w.name} is read elsewhere too, so experts would have to share it"
                    )
            for v in op.outputs:
                outside = [u for u, _ in v.uses if u not in inside]
                if v is not block.exit and (outside or self._is_output(v)):
                    where = outside[0].where if outside else "the output of the model"
                    raise Unfit(f"{where} reads the inside of it")
        if self._routed(block.exit):
            raise Unfit(f"{down.where} is inside of a mixture already")

    def _is_output(self, v: Value) -> bool:
        return any(v is o for _, o in self.graph.outputs)

    def _routed(self, exit_: Value) -> bool:
        """Is the result weighted by what an order of scores decides?"""
        stack, seen = [exit_], {exit_}
        while stack and len(seen) < _NEAR:
            v = stack.pop()
            for op, _ in v.uses:
                others = [x for x in op.inputs if x is not v and not isinstance(x, Literal)]
                if op.kind == "mul" and any(_chosen(x) for x in others):
                    return True
                if op.kind in _GATED and op.output not in seen:
                    seen.add(op.output)
                    stack.append(op.output)
        return False


def _activation(op: Op) -> Value:
    """The factor that is no weight."""
    a, b = op.inputs[:2]
    return b if weight_of(a) is not None else a


def _last(op: Op) -> bool:
    """Is the last axis of the activation summed, and the last one of the result the weight's?"""
    a, b, out = op.attrs["labels"]
    mine, other = (a, b) if _activation(op) is op.inputs[0] else (b, a)
    return mine[-1] in other and mine[-1] not in out and out[-1] in other and out[-1] not in mine


def _moved(v: Value) -> bool:
    return v.producer is not None and v.producer.kind in SAME


def _bias(values: Sequence[Value]) -> bool:
    """Is it a learned vector?"""
    leaves = [weight_of(v) for v in values]
    return bool(leaves) and all(
        w is not None and w.role == "parameter" and sum(n > 1 for n in w.shape) <= 1 for w in leaves
    )


def _chosen(v: Value) -> bool:
    """Does a value come from an order of scores, without a product in between?"""
    stack, seen = [v], {v}
    while stack and len(seen) < _NEAR:
        op = stack.pop().producer
        if op is None or op.kind in _MIXES:
            continue
        if op.kind == "scan" and op.attrs["how"] in ("topk", "topk_index", "argsort"):
            return True
        new = [x for x in op.inputs if x not in seen]
        seen.update(new)
        stack.extend(new)
    return False
