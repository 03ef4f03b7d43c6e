"""What a picture of a model shows: stacks of repeated blocks, their branches, and what stands between.

Every row is found in the view. A stack is one of ``rewrite.stacks``; a branch is what is added to its
stream, titled by what it holds (attention, units of an MLP, convolutions); what lies outside of stacks is
a row for each run of operators that read weights. Titles are for people; nothing rests on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from meristem.pages.growth import Growth
from meristem.rewrite.axes import Term, atoms_of
from meristem.rewrite.dimensions import KINDS, Dimension, common_place
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Op, Value, Weight
from meristem.rewrite.recognise import attentions, weight_of
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block

_READS = ("contract", "conv", "grouped_contract", "take", "take_many", "norm", "scan")
# What a row may be titled by, in this order; where none fits, by its operators, the first that it has.
_TITLES = ("attention", "mixture of experts", "convolution", "MLP")
_BY_OPERATOR = (
    ("take", "embedding"),
    ("take_many", "embedding"),
    ("contract", "linear"),
    ("norm", "norm"),
)


@dataclass(frozen=True)
class Size:
    """A dimension in a picture: its kind and size, and what it was where it grew."""

    kind: str
    after: int
    before: int
    places: int = 1

    @property
    def grew(self) -> bool:
        return self.after != self.before


@dataclass(frozen=True)
class Part:
    """A branch or a run of operators: ``sizes`` of its dimensions, ``parameters`` that it reads."""

    title: str
    place: str
    sizes: tuple[Size, ...]
    parameters: int

    @property
    def grew(self) -> bool:
        return any(s.grew for s in self.sizes)


@dataclass(frozen=True)
class Variant:
    """Blocks of a stack with the same parts: the numbers of the blocks, in order, and one's parts."""

    numbers: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tower:
    """A stack: its blocks (``new`` marks those that a growth added), their kinds, the stream that it runs
    along."""

    name: str
    place: str
    new: tuple[bool, ...]
    variants: tuple[Variant, ...]
    stream: tuple[Size, ...]
    parameters: int

    @property
    def before(self) -> int:
        return len(self.new) - sum(self.new)


Row = Part | Tower


@dataclass
class Picture:
    """Rows in the order of the program; ``reads[i]`` are the rows whose results row i reads, -1 being the
    inputs of the model."""

    rows: list[Row]
    reads: list[set[int]]
    inputs: list[tuple[str, tuple[int, ...]]]
    outputs: list[tuple[str, tuple[int, ...]]]


@dataclass
class _Finder:
    graph: Graph
    eq: Equations
    stacks: Sequence[Stack]
    dimensions: Sequence[Dimension]
    growth: Growth
    row: dict[Op, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.softmax = {a.op for a in attentions(self.graph, self.eq, self._mixed())}
        self.named: dict[str, list[Dimension]] = {}
        for d in self.dimensions:
            for name in dict.fromkeys(n for n, _ in d.weights) if d.kind != "layers" else ():
                self.named.setdefault(name, []).append(d)

    def _mixed(self) -> set[Term]:
        return {a for w in self.graph.weights for t in self.eq.of(w) for a in atoms_of(t)}

    def picture(self) -> Picture:
        stack_of = {op: i for i, s in enumerate(self.stacks) for b in s.blocks for op in b.ops}
        rows: list[Row] = []
        drawn: dict[int, int] = {}
        gap: list[Op] = []
        for op in self.graph.ops:
            at = stack_of.get(op)
            if at is None:
                gap.append(op)
            elif at in drawn:
                self.row[op] = drawn[at]
            else:
                self._between(gap, rows)
                gap = []
                drawn[at] = self.row[op] = len(rows)
                rows.append(self._tower(self.stacks[at]))
        self._between(gap, rows)
        inputs = [(v.name, tuple(v.shape)) for v in self.graph.inputs]
        outputs = [(n, tuple(v.shape)) for n, v in self.graph.outputs]
        return Picture(rows, self._reads(len(rows)), inputs, outputs)

    # -- rows -------------------------------------------------------------------------------------

    def _between(self, ops: Sequence[Op], rows: list[Row]) -> None:
        """Rows for what stands outside of stacks: runs of operators of one title, with what else reads
        weights after them (biases, gains)."""
        runs: list[tuple[str, list[Op]]] = []
        for op in ops:
            title = self._title([op], [])
            if op.kind not in _READS and runs and _weights([op]):
                runs[-1][1].append(op)
            elif _weights([op]) or op.kind == "norm":
                if not runs or runs[-1][0] != title:
                    runs.append((title, []))
                runs[-1][1].append(op)
        for _, own in runs:
            for op in own:
                self.row[op] = len(rows)
            rows.append(self._part(own))

    def _tower(self, stack: Stack) -> Tower:
        stream = self._stream(stack)
        blocks = [self._parts(b, stream) for b in stack.blocks]
        new = tuple(self._is_new(b) for b in stack.blocks)
        kinds: dict[tuple[object, ...], list[int]] = {}
        twins: dict[
            tuple[object, ...], list[int]
        ] = {}  # by today's sizes, which are all that new ones have
        for i in sorted(range(len(blocks)), key=lambda i: new[i]):
            today = tuple((p.title, *((s.kind, s.after) for s in p.sizes)) for p in blocks[i])
            if new[i] and today in twins:
                twins[today].append(i)
            else:
                own = kinds.setdefault(tuple((p.title, p.sizes) for p in blocks[i]), [])
                twins.setdefault(today, own).append(i)
                if own is not twins[today]:
                    own.append(i)
        variants = tuple(
            Variant(tuple(sorted(n)), _of_all([blocks[i] for i in n])) for n in kinds.values()
        )
        ops = [op for b in stack.blocks for op in b.ops]
        sizes = self._sizes(stream)
        return Tower(stack.name, stack.place, new, variants, sizes, _count(_weights(ops)))

    def _is_new(self, block: Block) -> bool:
        names = [n for w in block.named for n in w.names]
        return bool(names) and all(n in self.growth.fresh for n in names)

    def _stream(self, stack: Stack) -> list[Dimension]:
        """The dimensions of what goes from block to block."""
        entry = {a for t in self.eq.of(stack.blocks[0].entry) for a in atoms_of(t) if a.size > 1}
        found = self._of(op for b in stack.blocks for op in b.ops)
        return [d for d in found if entry.intersection(atoms_of(d.term))]

    def _parts(self, block: Block, stream: Sequence[Dimension]) -> tuple[Part, ...]:
        """One for each branch that is added to the stream, in order, and one for what is left."""
        left = dict.fromkeys(block.ops)
        out = []
        for r in block.sums:
            for branch in r.branches:
                own = _cone(branch, left)
                for op in own:
                    del left[op]
                if _weights(own):
                    out.append(self._part(own, stream))
        rest = [op for op in left if op.kind in _READS]
        if _weights(rest) and (not out or any(op.kind != "norm" for op in rest)):
            out.append(self._part(rest, stream))
        return tuple(out)

    def _part(self, ops: Sequence[Op], stream: Sequence[Dimension] = ()) -> Part:
        """``stream`` is what a stack shows once for all its parts."""
        dims = self._of(ops)
        readers = [op for op in ops if op.place and _weights([op])]
        main = [op for op in readers if op.kind in _READS and op.kind != "norm"]
        place = common_place(op.place for op in main or readers)
        sizes = self._sizes([d for d in dims if d not in stream])
        return Part(self._title(ops, dims), place, sizes, _count(_weights(ops)))

    def _title(self, ops: Sequence[Op], dims: Sequence[Dimension]) -> str:
        """What is computed here, in the order of ``_TITLES``; else by an operator that reads weights."""
        kinds = {d.kind for d in dims}
        own = [op for op in ops if _weights([op]) or op.kind == "norm"]
        count = Counter(op.kind for op in own)
        facts = {
            "attention": any(op in self.softmax for op in ops),
            "mixture of experts": bool(kinds & {"experts", "expert_mlp"})
            or count["grouped_contract"] > 0,
            "convolution": count["conv"] > 0,
            "MLP": "mlp" in kinds and count["contract"] > 1,
        }
        found = [title for title in _TITLES if facts[title]]
        if found:
            return ", ".join(found)
        return next((title for kind, title in _BY_OPERATOR if count[kind]), "weights")

    # -- sizes ------------------------------------------------------------------------------------

    def _of(self, ops: Iterable[Op]) -> list[Dimension]:
        """Dimensions of the weights that operators read."""
        found = (d for w in _weights(ops) for n in w.names for d in self.named.get(n, ()))
        return list(dict.fromkeys(found))

    def _sizes(self, dims: Sequence[Dimension]) -> tuple[Size, ...]:
        """By kind, equal ones once, in the order of ``KINDS``."""
        found: dict[tuple[str, int, int], int] = {}
        told = [
            d for d in dims if d.kind != "width" or d.growable or d.boundary
        ]  # no sizes of kernels
        for d in sorted(told, key=lambda d: KINDS.index(d.kind) if d.kind in KINDS else len(KINDS)):
            was = self.growth.before(d)
            key = (d.kind, d.size, d.size if was is None else was)
            found[key] = found.get(key, 0) + 1
        return tuple(Size(kind, after, before, n) for (kind, after, before), n in found.items())

    # -- who reads whom ---------------------------------------------------------------------------

    def _reads(self, count: int) -> list[set[int]]:
        """For each row the rows whose results reach it without passing another one."""
        out: list[set[int]] = [set() for _ in range(count)]
        nearest: dict[Value, frozenset[int]] = {v: frozenset({-1}) for v in self.graph.inputs}
        for op in self.graph.ops:
            came = frozenset().union(*(nearest.get(v, frozenset()) for v in op.inputs))
            row = self.row.get(op)
            if row is not None:
                out[row] |= came - {row}
                came = frozenset({row})
            for v in op.outputs:
                nearest[v] = came
        return out


def find_picture(
    graph: Graph,
    eq: Equations,
    stacks: Iterable[Stack],
    dimensions: Sequence[Dimension],
    growth: Growth | None = None,
) -> Picture:
    """The rows of a model; ``growth``, that which made it, says what its sizes were."""
    return _Finder(graph, eq, list(stacks), dimensions, growth or Growth(None)).picture()


def _of_all(blocks: Sequence[Sequence[Part]]) -> tuple[Part, ...]:
    """The parts of the first block, at the places of all: numbers that differ become stars."""
    out = []
    for same in zip(*blocks, strict=True):
        columns = zip(*(p.place.split(".") for p in same), strict=False)
        path = ".".join(c[0] if len(set(c)) == 1 else "*" for c in columns)
        out.append(replace(same[0], place=path))
    return tuple(out)


def _cone(v: Value, inside: Mapping[Op, None]) -> list[Op]:
    """The operators behind a value among some, in their order."""
    found, stack = set(), [v]
    while stack:
        op = stack.pop().producer
        if op is not None and op in inside and op not in found:
            found.add(op)
            stack.extend(op.inputs)
    return [op for op in inside if op in found]


def _weights(ops: Iterable[Op]) -> list[Weight]:
    """Parameters that operators read, each once."""
    computing = (op for op in ops if weight_of(op.output) is None)  # others only rearrange a weight
    found = (weight_of(v) for op in computing for v in op.inputs)
    return list(dict.fromkeys(w for w in found if w is not None and w.role == "parameter"))


def _count(weights: Iterable[Weight]) -> int:
    return sum(prod(w.shape) for w in weights)


__all__ = ["Part", "Picture", "Row", "Size", "Tower", "Variant", "find_picture"]
