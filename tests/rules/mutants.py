"""Wrong operators and a wrong engine; the elementwise mutants are beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from meristem.rewrite import axes as axes_module
from meristem.rewrite import expansion as expansion_module
from meristem.rewrite import flow as flow_module
from meristem.rewrite import registry, script, shares
from meristem.rewrite.blocks import Growth
from meristem.rewrite.cell import Cell
from meristem.rewrite.equations import Equations
from meristem.rewrite.expansion import Expansion
from meristem.rewrite.flow import Flow
from meristem.rewrite.formula import FALSE, TRUE, all_of
from meristem.rewrite.lift import Lift
from meristem.rewrite.scale import Linear
from meristem.rewrite.semantics import (
    chosen,
    contraction,
    elementwise,
    gather,
    layout,
    norm,
    pad,
    pool,
    reduce,
    scatter,
)
from meristem.rewrite.sizes import Sizes
from tests.rules import mutants_elementwise
from tests.rules.mutation import MUTANTS, method, mutant, nothing

# -- contractions -----------------------------------------------------------------------------------

mutant("contraction: obligation dropped", "relu: free")(
    method(contraction.Mixing, "_oblige", nothing)
)
mutant("contraction: scale of the weights dropped", "contract: attention")(
    method(contraction.Mixing, "_scale", lambda self, x, y, combo: x.scale)
)
mutant("contraction: blocks need not agree", "concat: pieces of different factors")(
    method(Flow, "equal_scales", lambda self, scales, why: next((s for s in scales if s), None))
)
mutant("contraction: copies are not counted", "relu: free", "contract: attention")(
    method(
        contraction.Mixing, "_scale",
        lambda self, x, y, combo: None if None in (x.scale, y.scale) else x.scale + y.scale,
    )
)  # fmt: skip
mutant("contraction: copies need not be equal", "contract: attention", "slice: every second")(
    method(contraction.Mixing, "_summed_twins", lambda self, side, cell, where: [])
)
mutant("contraction: any twin", "norm: residual stream, layer norm", "sum: of a kept grown axis")(
    method(contraction.Mixing, "_twin", lambda *_: TRUE)
)
mutant("contraction: a product of means", "contract: bilinear, mean")(
    method(
        contraction.Mixing, "_twin",
        lambda self, where, fresh, k, axis, atom, old=contraction.Mixing._twin: (
            TRUE if all(self.out[axis] in side for side in self.labels)
            else old(self, where, fresh, k, axis, atom)
        ),
    )
)  # fmt: skip
mutant("contraction: no vanishing needed of the other side", "contract: attention")(
    method(contraction, "any_of", lambda parts: TRUE)
)


mutant("contraction: any two halves cancel", "relu: free")(
    method(contraction.Mixing, "_cancels", lambda self, where, new: [TRUE] if new else [])
)
mutant("contraction: opposite halves by any factor", "contract: attention")(
    method(contraction.Mixing, "_opposite", lambda *_: TRUE)
)
mutant("elementwise: opposite halves through any function",
       "contract: attention with norms of queries and keys", "contract: bilinear, mean")(
    method(elementwise.Row, "_opposite", lambda self, cells, k: all_of(c.opposite(k) for c in cells))
)  # fmt: skip
mutant("expansion: halves of one sign", "relu: free")(
    lambda m: m.setattr(
        expansion_module, "_paired",
        lambda x, axis, digits, position, sign, old=expansion_module._paired: (
            old(x, axis, digits, position, 1)
        ),
    )
)  # fmt: skip
mutant("contraction: copies of any number count the same", "contract: attention")(
    method(Growth, "even", lambda self, atom: True)
)
mutant("shares: one reader that sums is enough", "contract: a weight and its transpose")(
    method(
        shares, "_summed",
        lambda v, outputs, shared: frozenset().union(
            *(shares._by(op, position, outputs, shared) for op, position in v.uses)
        ),
    )
)  # fmt: skip
mutant("shares: both factors may be shared", "contract: a weight with itself")(
    method(shares, "stored_behind", lambda v: v)
)
mutant("expansion: shares of other coordinates", "contract: attention")(
    method(Lift, "shared", lambda self, old=Lift.shared: np.arange(self.size) % self.core.size)
)
mutant("flow: the first block with the digits of the source", "slice: rotated halves behind heads")(
    lambda m: [m.setattr(room, "source_block", _first_source) for room in (flow_module, script)]
)


def _first_source(grid: Any, index: Any, k: int) -> tuple[int, ...]:
    """Takes the last block before it with the digits of the source, whichever piece that is."""
    axis, i = next((a, i) for a, i in enumerate(index) if grid[a][i].fresh)
    marks = [[(d.atom, d.fresh) for d in b.digits] for b in grid[axis]]
    wanted = [(atom, False) for atom, _ in marks[i]]
    return (*index[:axis], max(j for j in range(i) if marks[j] == wanted), *index[axis + 1 :])


@mutant("contraction: tie dropped", "relu: free", "contract: attention")
def _(m: pytest.MonkeyPatch) -> None:
    def axes(self: Any, op: Any, eq: Any) -> None:
        a, b, out = contraction.labels_of(op)
        term = dict(zip(b, eq.of(op.inputs[1]), strict=True))
        term.update(zip(a, eq.of(op.inputs[0]), strict=True))
        eq.set(op.output, [term[k] for k in out])

    m.setattr(contraction.Contract, "axes", axes)


@mutant("conv: channel tie dropped", "conv: two layers")
def _(m: pytest.MonkeyPatch) -> None:
    def axes(self: Any, op: Any, eq: Any) -> None:
        x, w = eq.of(op.inputs[0]), eq.of(op.inputs[1])
        eq.equal(x[1], w[0])
        for t in (*x[3:], *w[3:]):
            eq.pin(t, "slides over it")
        rest = [axes_module.Term(n) for n in op.output.shape[3:]]
        for t in rest:
            eq.pin(t, "makes it by sliding")
        eq.set(op.output, [x[0], x[1], w[1], *rest])

    m.setattr(contraction.Conv, "axes", axes)


# -- norms ------------------------------------------------------------------------------------------

mutant("norm: no factor", "norm: residual stream, rms")(
    method(norm._NormFlow, "_log_ratio", lambda self: 0.0)
)
mutant("norm: the factor is not a root", "norm: residual stream, rms")(
    method(
        norm._NormFlow, "_log_ratio",
        lambda self, old=norm._NormFlow._log_ratio: 2 * old(self),
    )
)  # fmt: skip
mutant("norm: epsilon stays", "norm: residual stream, rms", "norm: residual stream, layer norm")(
    method(norm._NormFlow, "_scale_eps", nothing)
)
mutant("norm: several pieces by one mean", "concat: a layer norm over the pieces",
       "concat: a layer norm over a wide and a single piece")(
    method(norm._NormFlow, "_check_mean", nothing)
)  # fmt: skip
mutant("norm: pieces copied unevenly", "concat: a norm over the pieces")(
    method(norm._NormFlow, "_copies", lambda self: {1.0})
)
mutant("norm: no epsilon needed", "norm: without epsilon, more rows")(
    method(norm._NormFlow, "_eps_positive", lambda self: True)
)


def _unobliged(kind: str, *cases: str) -> None:
    @mutant(f"{kind}: obligations dropped", *cases)
    def _(m: pytest.MonkeyPatch) -> None:
        old = Flow.oblige

        def oblige(self: Flow, formula: Any, why: str, atoms: Any = ()) -> None:
            if self.op is not None and self.op.kind != kind:
                old(self, formula, why, atoms)

        m.setattr(Flow, "oblige", oblige)


_unobliged("norm", "norm: residual stream, rms", "norm: residual stream, layer norm")
_unobliged("sum", "sum: squares", "sum: ones of the size of an axis")
_unobliged("contract", "contract: attention")
_unobliged("conv", "conv: two layers")
_unobliged("grouped_contract", "grouped_contract: experts")
_unobliged("take", "take: an index that depends on the data")


@mutant(
    "norm: zeros do not move the mean", "norm: residual stream, layer norm", "norm: after the sum"
)
def _(m: pytest.MonkeyPatch) -> None:
    old = norm._NormFlow.__init__

    def init(self: Any, op: Any, flow: Any) -> None:
        old(self, op, flow)
        self.center = False

    m.setattr(norm._NormFlow, "__init__", init)


mutant("a shifted gain is scaled without its shift", "norm: gains stored less one")(
    method(
        Expansion, "_old",
        lambda self, block, log_scale, target: (2.718281828459045**log_scale * block).astype(target),
    )
)  # fmt: skip

# -- moving -----------------------------------------------------------------------------------------


@mutant("reshape: tie dropped", "reshape: split and merge", "contract: attention")
def _(m: pytest.MonkeyPatch) -> None:
    m.setattr(Equations, "regroup", nothing)


@mutant("concat: tie of the other axes dropped", "slice: every second, interleaved rotary",
        "concat: two rows of one width")  # fmt: skip
def _(m: pytest.MonkeyPatch) -> None:
    def axes(self: Any, op: Any, eq: Any) -> None:
        rows = [eq.of(v) for v in op.inputs]
        out = list(rows[0])
        out[op.attrs["axis"]] = axes_module.cat([r[op.attrs["axis"]] for r in rows])
        eq.set(op.output, out)

    m.setattr(layout.Concat, "axes", axes)


mutant("slice: offsets stay", "slice: the middle, after a grown piece")(
    method(Sizes, "offset", lambda self, whole, old: old)
)
mutant(
    "slice: wrong blocks", "slice: thirds of different sizes", "slice: halves, one gates the other"
)(method(layout, "block_at", lambda blocks, offset: 0))
mutant("slice: strided part is free", "slice: every third, which does not divide")(
    method(
        layout.Slice, "_strided", staticmethod(lambda eq, t, start, step, n: axes_module.Term(n))
    )
)
mutant("pad: its ends may grow", "pad: zeros beside a grown axis")(
    method(
        pad.Pad, "axes",
        lambda self, op, eq: eq.set(op.output, [
            axes_module.Term(n) if lo or hi else t
            for t, n, (lo, hi) in zip(
                eq.of(op.inputs[0]), op.output.shape, op.attrs["pads"], strict=True
            )
        ]),
    )
)  # fmt: skip
mutant("expand: sizes stay", "expand: copies along a grown axis", "expand: grouped heads repeated")(
    method(layout.Expand, "sizes", lambda self, op, sizes: [])
)
mutant("reshape: sizes stay", "reshape: split and merge")(
    method(layout.Reshape, "sizes", lambda self, op, sizes: [])
)


def _unpinned(kind: str, *cases: str) -> None:
    """What copies of experts may pass has a second guard, which is dropped too."""

    @mutant(f"{kind}: pins dropped", *cases)
    def _(m: pytest.MonkeyPatch) -> None:
        old = Equations.pin

        def pin(self: Any, t: Any, reason: str, **options: bool) -> None:
            if self._op.kind != kind:
                old(self, t, reason, **options)

        m.setattr(Equations, "pin", pin)
        m.setattr(chosen, "require_copies", lambda *_: True)
        m.setattr(chosen, "points_at", lambda *_: True)


_unpinned("rearrange", "rearrange: flipped")
_unpinned("softmax", "softmax: over a grown axis")
_unpinned("extremum", "extremum: over a grown axis, least")
_unpinned("scan", "scan: cumsum of a grown axis", "scan: sort of a grown axis")
_unpinned("reshape", "reshape: factors that do not align")
_unpinned("take_many", "take_many: from the end")
_unpinned("scatter", "scatter: along a grown axis")


@mutant("constants may grow", "literal: a table beside a grown axis")
def _(m: pytest.MonkeyPatch) -> None:
    from meristem.rewrite import equations

    old = equations.pin
    m.setattr(
        equations, "pin", lambda t, why: None if "of the constant" in why.reason else old(t, why)
    )


# -- reading, looking, making -----------------------------------------------------------------------

mutant("sum: copies are not counted", "sum: mean over a grown axis", "sum: mean over pieces")(
    method(reduce, "_log_copies", lambda flow, digits: 0.0)
)
mutant("sum: a mean is a sum", "sum: mean over a grown axis")(method(reduce, "log", lambda x: 0.0))
mutant("sum: twins of what is summed", "sum: of a kept grown axis, after a relu")(
    method(reduce, "_outer_twins", lambda row, grid, at, over, fresh: (TRUE,) * len(fresh))
)
mutant("softmax: rows may be scaled", "softmax: of every head, alone")(
    method(Flow, "require_unscaled", nothing)
)
mutant("rows: twins by the mean", "softmax: beside a layer norm")(
    method(reduce, "_copy_rows", lambda op, flow: [
        flow.of(op.output).__setitem__(i, replace(flow.of(op.output)[i], twins=c.twins))
        for i, c in _cells(flow.of(op.inputs[0])) if c.twins
    ])
)  # fmt: skip
mutant("pool: the largest of means", "pool: max, layer norm after it")(
    method(
        pool.Pool, "transfer",
        lambda self, op, flow, old=pool.Pool.transfer: old(
            self, _with(op, how="mean"), flow
        ),
    )
)  # fmt: skip
mutant("take: negative indices pass", "take: an index that depends on the data")(
    method(gather.Take, "_check_growth", staticmethod(nothing))
)
mutant("take: constant indices stay", "take: a constant negative index")(
    method(gather.Take, "_check_growth", staticmethod(nothing))
)
mutant("take: one rewritten index for two axes", "take: one constant index for two axes")(
    method(gather, "_reads_one_axis", lambda index, flow: True)
)
mutant("take: indices beyond the axis", "take: a range of positions into a table")(
    method(gather, "check_range", nothing)
)


def _nothing_written(op: Any, flow: Flow, v: Any, *, whole: bool, old: Any = scatter._rows) -> Any:
    return (lambda at, fresh: []) if v is op.inputs[2] else old(op, flow, v, whole=whole)


mutant("scatter: nothing is written", "scatter: rows, set", "scatter: rows, add")(
    method(scatter, "_rows", _nothing_written)
)
mutant("scatter: a mean of places", "scatter: a place for every coordinate")(
    method(scatter, "_same_place", lambda twin, strategy: TRUE)
)


def _cells(cells: Any) -> Any:
    import numpy as np

    return [(i, cells[i]) for i in np.ndindex(cells.shape)]


def _with(op: Any, **attrs: Any) -> Any:
    return replace(op, attrs={**op.attrs, **attrs})


# -- the engine -------------------------------------------------------------------------------------

mutant("a fresh block's source is itself", "norm: residual stream, layer norm")(
    method(script, "source_block", lambda grid, index, k: (0,) * len(index))
)
mutant("weights are zero for free", "norm: residual stream, rms", "contract: attention")(
    method(Flow, "_fresh_weight", lambda self, w, grid, index, digits: Cell(
        TRUE, (FALSE,) * len(digits), None))
)  # fmt: skip
mutant("weights carry no factor", "norm: residual stream, rms")(
    method(script, "exp", lambda x: 1.0)
)
mutant("inputs carry any factor", "norm: residual stream, rms")(
    method(flow_module, "NONE", Linear(0.5))
)
mutant("literals carry any factor", "where: ones")(
    method(
        Flow, "_literal",
        lambda self, value, old=Flow._literal: self.build(
            value, lambda i, fresh: replace(old(self, value)[i], scale=None)
        ),
    )
)  # fmt: skip
mutant("outputs carry any factor", "sum: a mean that is the output")(
    method(Flow, "run", lambda self: _run_without_outputs(self))
)


def _run_without_outputs(flow: Flow) -> Flow:
    for op in flow.eq.graph.ops:
        flow.op = op
        registry.semantics(op.kind).transfer(op, flow)
    return flow


__all__ = ["MUTANTS", "mutants_elementwise"]
