"""New layers outside of residual streams: the identity behind an idempotent activation (Net2DeeperNet).

Behind h = phi(W u + b) a layer h' = phi(I h) with phi(phi(v)) = phi(v) changes nothing (arXiv:1511.05641).
A linear layer takes W = I and b = 0; a convolution an odd kernel with a one in its middle, stride 1 and
padding (k - 1) / 2, in the groups of the layer that it follows. A batch norm between takes
gain = sqrt(var + eps) and bias = mean, which is the identity with its running statistics. Those are
measured on batches, or copied from the layer before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from meristem.rewrite.depth import CloneEdit, DepthReport, DepthScript
from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import NotPreserved
from meristem.rewrite.graph import Array, Graph, Literal, Op, Value, Weight
from meristem.rewrite.made import COPY, Constant, Dirac, Entries, Made, Root
from meristem.rewrite.numbering import within
from meristem.rewrite.packed import pack
from meristem.rewrite.registry import semantics
from meristem.rewrite.repeat import ConvEdit
from meristem.rewrite.semantics.contraction import labels_of
from meristem.rewrite.semantics.elementwise import Row
from meristem.rewrite.shares import stored_behind
from meristem.rewrite.stacks import Stack
from meristem.rewrite.steps import Block

# Any composition of these with constants is one clamp, which is idempotent.
_CLAMPS = frozenset({"relu", "maximum", "minimum"})


@dataclass(frozen=True)
class Norm:
    """The four stored tensors of a batch norm, its epsilon, and the axis that they are of (None: of a
    single channel)."""

    mean: Weight
    var: Weight
    gain: Weight
    bias: Weight
    eps: float
    axis: int | None


@dataclass(eq=False)
class Site:
    """A linear layer or convolution, its batch norm if any, and its activation: from ``entry`` to ``exit``.

    ``made`` are recipes of a further layer behind it, ``origins`` the weights that they are made of where
    these are others; ``norm`` is the batch norm; ``pinned`` says why there can be none.
    """

    entry: Value
    exit: Value
    kernel: Op
    weight: Weight
    ops: list[Op] = field(default_factory=list)
    made: dict[Weight, Made] = field(default_factory=dict)
    origins: dict[Weight, Weight] = field(default_factory=dict)
    groups: int = 1
    activation: str = ""
    pinned: str | None = None
    name: str = ""
    norm: Norm | None = None

    @property
    def place(self) -> str:
        """The module of the weight, or of its operator where names are no paths."""
        return self.weight.name.rpartition(".")[0] or self.kernel.place or self.weight.name

    @property
    def stored(self) -> list[Weight]:
        return list(dict.fromkeys((*self.made, *self.origins)))

    def dimension(self) -> Dimension:
        """What a request names."""
        names = tuple((n, 0) for w in self.stored for n in w.names)
        return Dimension(self.name, "layers", 1, self.place, names, self.pinned)


def find_sites(graph: Graph) -> list[Site]:
    """Every layer with an activation of one operator behind it, in order."""
    found = [s for op in graph.ops for s in _sites(op)]
    count: dict[str, int] = {}
    for s in found:
        number = count[s.place] = count.get(s.place, 0) + 1
        s.name = f"layers@{s.place}" + (f"#{number}" if number > 1 else "")
    return found


def _sites(op: Op) -> Iterator[Site]:
    site = _linear(op) if op.kind == "contract" else _convolution(op) if op.kind == "conv" else None
    if site is None:
        return
    _bias(site)
    _batch_norm(site)
    _activation(site)
    if site.activation:
        yield site


def _linear(op: Op) -> Site | None:
    """u[..., k] W[k, o] -> [..., o], whichever way W is stored."""
    labels = labels_of(op)
    for side in (0, 1):
        w, u = stored_behind(op.inputs[side]), op.inputs[1 - side]
        own, other, out = labels[side], labels[1 - side], labels[2]
        if w is None or len(own) != 2 or len(w.shape) != 2 or not _enters(u, op):
            continue
        summed = [k for k in own if k not in out]
        new = [k for k in own if k not in other]
        if len(summed) != 1 or len(new) != 1:
            continue
        if out == tuple(new[0] if k == summed[0] else k for k in other):
            n = op.output.shape[out.index(new[0])]
            return Site(u, op.output, op, w, [op], {w: Dirac((n, n))})
    return None


def _convolution(op: Op) -> Site | None:
    """One native node: regrouped channels and kernel, the convolution, channels as before."""
    x, w = (v.producer for v in op.inputs)
    if x is None or w is None or x.kind != "reshape" or w.kind != "reshape":
        return None
    u, kernel = x.inputs[0], w.inputs[0]
    user = op.output.uses[0][0] if len(op.output.uses) == 1 else None
    if not isinstance(kernel, Weight) or not _enters(u, op) or x.native is not op.native:
        return None
    if user is None or user.kind != "reshape" or user.native is not op.native:
        return None
    groups, outputs = op.inputs[1].shape[:2]
    if kernel.shape[0] != groups * outputs:
        return None
    size = tuple(k - 1 + k % 2 for k in kernel.shape[2:])
    recipe = Dirac((groups * outputs, outputs, *size))
    return Site(u, user.output, op, kernel, [x, w, op, user], {kernel: recipe}, groups=groups)


def _enters(u: Value, op: Op) -> bool:
    """Is a value made outside of a native node, and no stored tensor?"""
    if isinstance(u, (Weight, Literal)):
        return False
    return u.producer is None or op.native is None or u.producer.native is not op.native


def _next(site: Site) -> Op | None:
    """What alone reads the layer's result so far."""
    return site.exit.uses[0][0] if len(site.exit.uses) == 1 else None


def _term(site: Site, op: Op | None, kind: str) -> Weight | None:
    """The stored tensor that an operator combines with the layer's result: one number for each output."""
    if op is None or op.kind != kind or op.output.shape != site.exit.shape:
        return None
    other = op.inputs[1] if op.inputs[0] is site.exit else op.inputs[0]
    w = stored_behind(other)
    return w if w is not None and w.is_float and len(w.shape) == 1 else None


def _take(site: Site, op: Op) -> None:
    site.ops.append(op)
    site.exit = op.output


def _bias(site: Site) -> None:
    op = _next(site)
    w = _term(site, op, "add")
    if op is not None and w is not None:
        site.made[w] = Constant(0.0)
        _take(site, op)


def _batch_norm(site: Site) -> None:
    """(v - mean) / sqrt(var + eps) * gain + bias, all four stored."""
    first = _next(site)
    mean = _term(site, first, "sub")
    if first is None or mean is None or first.inputs[0] is not site.exit:
        return
    axis = _axis(first.inputs[1], len(site.exit.shape))
    _take(site, first)
    divide = _next(site)
    found = _deviation(divide, site.exit) if divide is not None else None
    if divide is None or found is None:
        return
    _take(site, divide)
    (var, eps), parts = found, dict[str, Weight]()
    for kind in ("mul", "add"):
        op = _next(site)
        w = _term(site, op, kind)
        if op is not None and w is not None:
            parts[kind] = w
            _take(site, op)
    site.made |= {mean: COPY, var: COPY}
    if len(parts) < 2:
        site.pinned = "its batch norm has no gain and bias of its own, so it cannot be the identity"
        return
    site.made |= {parts["mul"]: Root(eps), parts["add"]: COPY}
    site.origins = {parts["mul"]: var, parts["add"]: mean}
    site.norm = Norm(mean, var, parts["mul"], parts["add"], eps, axis)


def _axis(v: Value, rank: int) -> int | None:
    """The axis that numbers of one axis are spread along."""
    wide = [i for i, n in enumerate(v.shape) if n > 1]
    return rank - len(v.shape) + wide[0] if wide else None


def _deviation(op: Op, x: Value) -> tuple[Weight, float] | None:
    """The stored variance and epsilon of ``x * rsqrt(var + eps)``."""
    if op.kind != "mul":
        return None
    v = op.inputs[1] if op.inputs[0] is x else op.inputs[0]
    while v.producer is not None and v.producer.kind in ("reshape", "identity"):
        v = v.producer.inputs[0]
    root = v.producer
    added = root.inputs[0].producer if root is not None and root.kind == "rsqrt" else None
    if added is None or added.kind != "add":
        return None
    w, eps = stored_behind(added.inputs[0]), added.inputs[1]
    if w is None or not isinstance(eps, Literal) or eps.data.size != 1:
        return None
    return w, float(eps.data.flat[0])


def _activation(site: Site) -> None:
    """Operators on one value each with f(f(v)) = f(v), by their rows of the table.

    What is the identity in eval mode (dropout) is no activation, but may stand before one.
    """
    chain: list[Op] = []
    between: list[Op] = []
    x = site.exit
    while len(x.uses) == 1:
        op = x.uses[0][0]
        if op.kind == "identity":
            between.append(op)
        elif _pointwise(op, x) and (not chain or {o.kind for o in (*chain, op)} <= _CLAMPS):
            for o in (*between, op):
                _take(site, o)
            chain.append(op)
            between = []
        else:
            break
        x = op.output
    site.activation = " ".join(o.kind for o in chain)
    wrong = next((o.kind for o in chain if not _row(o).idempotent), None)
    if wrong is not None:
        site.pinned = (
            f"{wrong} follows it, which is not idempotent ({wrong}({wrong}(x)) is not {wrong}(x)), so "
            'that a layer which is the identity would change what passes; method="identity" grows '
            "residual stacks, and widths grow behind any activation"
        )


def _row(op: Op) -> Row:
    entry = semantics(op.kind)
    assert isinstance(entry, Row)
    return entry


def _pointwise(op: Op, x: Value) -> bool:
    """A function of one operand, or of two of which the second is one number."""
    if not isinstance(semantics(op.kind), Row) or not op.output.is_float:
        return False
    rest = [v for v in op.inputs if v is not x]
    if len(op.inputs) == 1:
        return op.kind not in ("cast", "neg")
    one = len(rest) == 1 and isinstance(rest[0], Literal) and rest[0].data.size == 1
    return one and op.kind in _CLAMPS


def measured(norm: Norm, mean: Array, var: Array) -> dict[Weight, Made]:
    """A batch norm that has these statistics and is the identity with them.

    They are rounded to its precision first, so that gain and bias fit what is stored. Raises NotPreserved
    where they are no numbers.
    """
    if not np.isfinite(mean).all() or not np.isfinite(var).all():
        raise NotPreserved(
            f"the batches give no finite mean and variance behind {norm.mean.name}; give others, or leave "
            "batches= out"
        )
    kind = norm.mean.dtype if norm.mean.dtype in ("float16", "float32") else "float64"
    average, spread = (pack(np.asarray(a, kind)) for a in (mean, var))
    return {
        norm.mean: Entries(average),
        norm.var: Entries(spread),
        norm.gain: Entries(spread, root=norm.eps),
        norm.bias: Entries(average),
    }


def plan_deeper(
    graph: Graph, sizes: Mapping[Site, int], statistics: Mapping[Site, Array]
) -> DepthScript:
    """The edit script that puts ``size - 1`` layers behind each site.

    ``statistics`` are means and variances [2, channels] of what sites give, for their batch norms.
    """
    script = DepthScript()
    stored = {n for w in (*graph.weights, *graph.unused) for n in w.names}
    taken = set(stored)
    for site, size in sizes.items():
        rows = (tuple(site.ops), tuple(site.stored), (), "", "", None)
        stack = Stack((Block(site.entry, site.exit, *rows),), 1, None, site.place)
        known: dict[Weight, Made] = {}
        if site.norm is not None and site in statistics:
            known = measured(site.norm, *statistics[site])
        own: list[CloneEdit] = []
        number = 0
        for _ in range(1, size):
            while True:
                clone = CloneEdit.of(stack, 0, 1, number, site.exit)
                number += 1
                if not taken & {clone.name(n) for w in site.stored for n in w.names}:
                    break
            taken |= {clone.name(n) for w in site.stored for n in w.names}
            clone.modules = {m: f"{m}_{clone.tag}" for m in _modules(site, stored)}
            clone.made = site.made | known
            clone.origins = dict(site.origins)
            if site.kernel.kind == "conv":
                kernel = site.made[site.weight].shape(())[2:]
                clone.convs = (ConvEdit(site.kernel, kernel, site.groups),)
            own.append(clone)
        script.clones += own
        names = tuple(clone.name(site.weight.name) for clone in own)
        script.reports.append(
            DeeperReport(
                site.name,
                1,
                size,
                positions=(1,) * len(own),
                sources=(0,) * len(own),
                zeroed=(),
                gates=(),
                activation=site.activation.replace(" ", " and "),
                layers=names,
                normed="measured" if known else "copied" if site.norm else "",
            )
        )
    return script


def _modules(site: Site, names: set[str]) -> list[str]:
    """Modules that hold weights of the site and nothing else that is used."""
    own = {n for w in site.stored for n in w.names}
    places = dict.fromkeys(n.rpartition(".")[0] for n in own)
    used = {n for n in names if n.rpartition(".")[2] != "num_batches_tracked"}
    return [m for m in places if m and {n for n in used if within(n, [m])} <= own]


@dataclass(frozen=True)
class DeeperReport(DepthReport):
    """What one site's growth does: ``layers`` are the new weights, ``normed`` is where the statistics of
    their batch norms are from, empty without any."""

    activation: str = ""
    layers: tuple[str, ...] = ()
    normed: str = ""

    def __str__(self) -> str:
        norm = {
            "copied": "; batch norms with the running statistics of the layer before",
            "measured": "; batch norms with statistics measured on batches",
        }.get(self.normed, "")
        layers = ", ".join(self.layers)
        return (
            f"{self.stack} 1 -> {self.new}: the identity behind {self.activation}, {layers}{norm}"
        )


__all__ = ["Norm", "Site", "find_sites", "measured", "plan_deeper"]
