"""Dimensions: named axis terms, with their kind, place, size, weights and what pins them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from meristem.rewrite.axes import Pin, Term, atoms_of, factors_of, find, prod
from meristem.rewrite.equations import Equations
from meristem.rewrite.graph import Graph, Input, Value, Weight
from meristem.rewrite.limits import counts
from meristem.rewrite.recognise import Attention, attentions, streams, weight_of
from meristem.rewrite.semantics.chosen import mixtures

KINDS = (
    "hidden",
    "mlp",
    "heads",
    "kv_heads",
    "group",
    "head_dim",
    "qk_dim",
    "value_dim",
    "channels",
    "experts",
    "expert_mlp",
    "rank",
    "vocabulary",
    "positions",
    "layers",
    "width",
)


@dataclass(eq=False)
class Dimension:
    """A growable (or pinned) size of the model.

    ``weights`` are (name, axis) pairs; ``pinned`` is None or the reason; ``boundary`` says that the
    reason is an input or output, which a boundary policy lifts. ``term`` is the axis term whose growth
    is solved into its free atoms.
    """

    name: str
    kind: str
    size: int
    place: str
    weights: tuple[tuple[str, int], ...]
    pinned: str | None = None
    boundary: bool = False
    opaque: bool = False
    aliases: tuple[str, ...] = ()
    term: Term = field(default_factory=lambda: Term(1), repr=False)
    inner: tuple[Term, ...] = field(default=(), repr=False)

    @property
    def growable(self) -> bool:
        return self.pinned is None


def find_dimensions(graph: Graph, eq: Equations) -> list[Dimension]:
    """All dimensions of the weights, in order of first use, with unique names."""
    return _Namer(graph, eq).run()


class _Namer:
    def __init__(self, graph: Graph, eq: Equations) -> None:
        self.graph, self.eq = graph, eq
        self.uses: dict[Term, list[tuple[Weight, int]]] = {}
        for w in graph.weights:
            for axis, t in enumerate(eq.of(w)):
                for a in atoms_of(t):
                    if a.size > 1 and (w, axis) not in self.uses.setdefault(a, []):
                        self.uses[a].append((w, axis))
        self.claimed: set[Term] = set()
        self.found: list[tuple[str, Term, tuple[Term, ...], tuple[str, ...]]] = []

    def run(self) -> list[Dimension]:
        self.touched, self.nonlinear = self._facts()
        found = mixtures(self.graph, self.eq)
        self.chosen = {e: k for e, k in found.items() if e.kind == "atom" and e in self.uses}
        for attention in attentions(self.graph, self.eq, set(self.touched)):
            self._attention(attention)
        for t in streams(self.graph, self.eq):
            if self._weighted(t) and all(a in self.touched for a in atoms_of(t) if a.size > 1):
                self._add(_stream_kind(t, self.touched), t)
        for experts, taken in self.chosen.items():
            self._add("experts", experts, (taken,))
        for t in self._summed():
            self._add(self._inner_kind(t), t)
        for a in self.uses:
            if a not in self.claimed and not _baked(a):
                self._add(self._table_kind(a), a)
        self._output_tokens()
        return self._named()

    def _output_tokens(self) -> None:
        """The scores of an untied output are those of a vocabulary: as many as a table has rows."""
        rows = {t.size for kind, t, *_ in self.found if kind == "vocabulary"}
        scores = {a for _, v in self.graph.outputs for t in self.eq.of(v)[-1:] for a in atoms_of(t)}
        for i, (kind, t, inner, aliases) in enumerate(self.found):
            if kind == "width" and t.size in rows and t in scores:
                self.found[i] = ("vocabulary", t, inner, aliases)

    def _weighted(self, t: Term) -> bool:
        own = [a for a in atoms_of(t) if a.size > 1]
        return bool(own) and all(a in self.uses for a in own) and self._parameters(own)

    def _parameters(self, atoms: Sequence[Term]) -> bool:
        """Do the atoms occur in what is trained, in a contraction, a table or a gain?"""
        return any(w.role == "parameter" for a in atoms for w, _ in self.uses[a])

    def _add(
        self, kind: str, t: Term, inner: tuple[Term, ...] = (), aliases: tuple[str, ...] = ()
    ) -> None:
        atoms = [a for a in atoms_of(t) if a.size > 1]
        if not atoms or all(a in self.claimed for a in atoms):
            return
        self.claimed.update(atoms)
        self.found.append((kind, find(t), inner, aliases))

    def _attention(self, a: Attention) -> None:
        heads = [t for t in a.heads if t in self.uses]
        group = [t for t in a.group if t in heads]
        kv = [t for t in heads if t not in group]
        if heads and not all(t in self.claimed for t in heads):
            if kv and group:
                self.found.append(("heads", prod(heads), (prod(kv), prod(group)), ()))
                self._add("kv_heads", prod(kv))
                self._add("group", prod(group))
            else:
                self._add("heads", prod(heads))
        tied = a.v is not None and set(atoms_of(a.qk)) & set(atoms_of(a.v))
        if tied:
            self._add("head_dim", a.qk, aliases=("qk_dim", "value_dim"))
            return
        if self._weighted(a.qk):
            self._add("qk_dim", a.qk)
        if a.v is not None and self._weighted(a.v):
            self._add("value_dim", a.v)

    def _summed(self) -> list[Term]:
        """Factors of axes over which activations are contracted with weights, in order."""
        out: dict[Term, None] = {}
        for op in self.graph.ops:
            if op.kind not in ("contract", "grouped_contract"):
                continue
            x = op.inputs[0]
            labels = op.attrs["labels"] if op.kind == "contract" else ((0, 1), (4, 1, 2), (0, 2))
            for k, t in zip(labels[0], self.eq.of(x), strict=True):
                if k in labels[1] and k not in labels[2]:
                    for f in factors_of(t):
                        if self._weighted(f) and any(a in self.touched for a in atoms_of(f)):
                            out.setdefault(f)
        return list(out)

    def _facts(self) -> tuple[dict[Term, set[str]], set[Term]]:
        """Kinds of the operators that mix each atom with weights; atoms that meet a nonlinearity."""
        touched: dict[Term, set[str]] = {}
        nonlinear: set[Term] = set()
        self.mixing: set[Weight] = set()
        for op in self.graph.ops:
            if op.kind in ("contract", "conv", "grouped_contract"):
                for v in op.inputs:
                    leaf = weight_of(v)
                    if leaf is not None:
                        self.mixing.add(leaf)
                        axes = self.eq.of(v)[:3] if op.kind == "conv" else self.eq.of(v)
                        for t in axes:
                            for a in atoms_of(t):
                                touched.setdefault(a, set()).add(op.kind)
            elif op.kind in _NONLINEAR:
                nonlinear.update(a for t in self.eq.of(op.output) for a in atoms_of(t))
        return touched, nonlinear

    def _inner_kind(self, t: Term) -> str:
        atoms = set(atoms_of(t))
        why = pins_of(t)
        if why is not None and not why.boundary:
            return "width"
        for a in atoms:
            for w, axis in self.uses.get(a, []):
                others = [u for i, u in enumerate(self.eq.of(w)) if i != axis]
                if len(w.shape) == 3 and any(_reason(u, "chooses") for u in others):
                    return "expert_mlp"
        if atoms & self.nonlinear:
            return "mlp"
        produced = sum(1 for a in atoms for _ in self.uses.get(a, []))
        return "rank" if produced >= 2 else "width"

    def _table_kind(self, a: Term) -> str:
        if any(len(w.shape) == 3 and self._by_expert(w) for w, _ in self.uses[a]):
            return "expert_mlp"
        for w, axis in self.uses[a]:
            for op, i in w.uses:
                if op.kind == "take" and i == 0 and axis == op.attrs["axis"]:
                    index = op.inputs[1]
                    return (
                        "vocabulary"
                        if _from_input(index)
                        else "positions"
                        if counts(index)
                        else "width"
                    )
        if _reason(a, "chooses"):
            return "experts"
        kinds = self.touched.get(a, set())
        if kinds == {"conv"}:
            return "channels"
        return "width" if kinds or _reason(a, "slides") else "positions"

    def _by_expert(self, w: Weight) -> bool:
        """Does a weight have an axis of experts of whom a token chooses?"""
        return any(find(t) in self.chosen for t in self.eq.of(w))

    def _named(self) -> list[Dimension]:
        out: list[Dimension] = []
        count: dict[str, int] = {}
        for kind, t, inner, aliases in self.found:
            weights: dict[tuple[Weight, int], None] = {}
            for a in atoms_of(t):
                for pair in self.uses.get(a, []):
                    weights.setdefault(pair)
            place = self._place(t, list(weights))
            base = f"{kind}@{place}" if place else kind
            count[base] = count.get(base, 0) + 1
            name = base if count[base] == 1 else f"{base}#{count[base]}"
            why = choice_pin(t, *inner) if kind == "experts" and inner else pins_of(t)
            if kind == "experts" and not inner:
                why = next((p for p in find(t).pins if "chooses" in p.reason), why)
            out.append(
                Dimension(
                    name,
                    kind,
                    find(t).size,
                    place,
                    tuple((w.name, axis) for w, axis in weights),
                    why.reason if why else None,
                    bool(why and why.boundary),
                    bool(why and why.opaque),
                    aliases,
                    t,
                    inner,
                )
            )
        return out

    def _place(self, t: Term, weights: list[tuple[Weight, int]]) -> str:
        """Where a dimension is: the common path of the weights that have all of it.

        A part may be shared with other places (a table of rotations that several layers read), so
        weights with the whole axis count first, and of these the ones that are multiplied.
        """
        pairs = [set(self.uses[a]) for a in atoms_of(t) if a in self.uses]
        whole = [w for w in weights if all(w in p for p in pairs)] or weights
        mixed = [w for w, _ in whole if w in self.mixing]
        return common_place(p for w in mixed or [w for w, _ in whole] for p in places(w))


_NONLINEAR = {
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "quick_gelu",
    "tanh",
    "sigmoid",
    "elu",
    "selu",
    "mish",
    "erf",
    "leaky_relu",
    "softplus",
    "hard_swish",
    "hard_sigmoid",
}


def _baked(a: Term) -> bool:
    """Batch or sequence of the trace in a folded table: a size of the caller's, not of the model."""
    return any(p.boundary and "input" in p.reason for p in a.pins) and not any(
        "output" in p.reason for p in a.pins
    )


def _stream_kind(t: Term, touched: dict[Term, set[str]]) -> str:
    kinds = {k for a in atoms_of(t) for k in touched.get(a, ())}
    return "channels" if kinds == {"conv"} else "hidden"


def _reason(t: Term, word: str) -> bool:
    return any(word in p.reason for a in atoms_of(t) for p in a.pins)


def _from_input(v: Value) -> bool:
    """Does an index tensor come from a graph input by arithmetic?"""
    stack, seen = [v], set()
    while stack:
        v = stack.pop()
        if isinstance(v, Input):
            return True
        if (
            v.producer is not None
            and id(v) not in seen
            and v.producer.kind not in ("scan", "ne", "eq")
        ):
            seen.add(id(v))
            stack.extend(v.producer.inputs)
    return False


def pins_of(t: Term) -> Pin | None:
    """What pins a term: growth needs one free atom; boundary reasons are reported last."""
    atoms = [a for a in atoms_of(t) if a.size > 1]
    free = [a for a in atoms if not a.pins]
    if free:
        return None
    hard = sorted((p for a in atoms for p in a.pins if not p.boundary), key=lambda p: p.choice)
    soft = [p for a in atoms for p in a.pins if p.boundary]
    lifted = [a for a in atoms if all(p.boundary for p in a.pins)]
    return (soft if lifted else hard)[0]


def choice_pin(experts: Term, taken: Term) -> Pin | None:
    """What pins experts of whom ``taken`` are chosen, besides that copies of one must come with all."""
    if find(taken).kind != "atom":
        return Pin("what it chooses is taken apart, so that copies of it would be told apart")
    pins = [p for t in (experts, taken) for p in find(t).pins if not p.choice]
    # An interface of scores or places cannot be cropped: copies are in no fixed order there.
    return Pin(pins[0].reason) if pins else None


def places(w: Weight) -> list[str]:
    """Module paths of the operators that read a weight."""
    out: dict[str, None] = {}
    stack = list(w.uses)
    while stack:
        op, _ = stack.pop()
        if (
            op.kind in ("permute", "reshape", "cast", "identity", "slice", "expand")
            and not op.place
        ):
            stack.extend(op.output.uses)
        else:
            out.setdefault(op.place)
    return list(out)


def common_place(paths: Iterable[str]) -> str:
    """The longest module path that all share."""
    split = [p.split(".") if p else [] for p in paths]
    if not split:
        return ""
    out = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) != 1:
            break
        out.append(parts[0])
    return ".".join(out)
