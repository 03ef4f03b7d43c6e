"""Every operator in small graphs, every free axis grown alone and together, under every strategy.

What is accepted is measured: outputs, and every claim of the proof. What is refused in the default mode
must stand here with its reason, so that a refusal can neither appear nor vanish unseen.
"""

import pytest

from meristem.rewrite.registry import kinds
from tests.rules.elementwise_cases import ELEMENTWISE, cases
from tests.rules.growing import MODES, grow_everything
from tests.rules.structure_cases import CASES

# Cases none of whose axes can grow, by what pins them.
PINNED = {
    "reshape: factors that do not align": "whose factors do not align",
    "slice: every third, which does not divide": "does not divide its size",
    "slice: every second of a part": "does not divide its size",
    "rearrange: flipped": "moves coordinates by position",
    "softmax: over a grown axis": "a new entry would take weight",
    "scatter: along a grown axis": "writes into it by an index tensor",
    "scatter: into a part of a grown axis": "writes into a part of it",
    "literal: a table beside a grown axis": "axis of the constant",
    "pow: a table of exponents": "axis of the constant",
    **{
        f"scan: {how} of a grown axis": "depends on the order along it"
        for how in ("cumsum", "diff", "sort", "argsort", "topk", "topk_index", "tril")
    },
}
# Cases of which some axes cannot grow, and why the planner refuses those.
REFUSED = {
    "take: one constant index for two axes": "also serves another axis",
    "take: an index that depends on the data": "would count from the new end",
    "take: a range of positions into a table": "carry beyond the axis",
    "sum: ones of the size of an axis": "which must be zero",
    "pow: exponents that are weights": "needs a positive operand",
    "holes: 0/0 at new coordinates": "needs a positive operand",
    "norm: without epsilon, more rows": "would be 0/0",
}
# Signs that hold but are not claimed: the graph around the operator needs them, so it is refused.
CONSERVATIVE = {
    "sign": {
        "leaky_relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "mish", "elu", "selu", "hard_swish",
        "floor", "ceil", "round", "trunc", "isnan", "isinf", "div", "floor_div", "mod",
    },
    "strict sign": {
        "leaky_relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "mish", "elu", "selu", "hard_swish",
        "ceil", "hard_sigmoid", "abs", "relu",
    },
    "claims a sign": {"gelu", "silu", "sin", "tan", "mish"},
    "free, any sign": {"sqrt", "log", "rsqrt", "reciprocal", "log1p"},
}  # fmt: skip
# Operators whose own operand must be positive, in graphs that only make it non-negative.
NOT_PROVED = {"rsqrt: sign", "reciprocal: sign"}


def test_every_kind_has_a_case():
    structural = {name.split(":")[0] for name in CASES}
    elementwise = {row.kind for row in ELEMENTWISE}
    assert structural | elementwise >= set(kinds())


@pytest.mark.parametrize("name", CASES)
def test_structure(name):
    outcome = grow_everything(CASES[name]())
    _expect(name, outcome, PINNED.get(name), REFUSED.get(name))


@pytest.mark.parametrize("kind", [row.kind for row in ELEMENTWISE])
def test_elementwise(kind):
    for name, build in cases(kind).items():
        outcome = grow_everything(build(), seeds=(0,))
        refused = None
        if kind in CONSERVATIVE.get(name, ()) or f"{kind}: {name}" in NOT_PROVED:
            refused = "operand, which is not proved at the new coordinates"
        _expect(f"{kind}: {name}", outcome, None, refused)


def _expect(name, outcome, pinned, refused):
    reasons = [why for _, mode, why in outcome.refused if mode == "graph"]
    if pinned:
        assert not outcome.accepted, f"{name} grows now; take it out of PINNED"
        assert any(pinned in reason for reason in outcome.pinned), outcome.pinned
    elif refused:
        assert reasons, f"{name} is not refused any more; take it out of the list"
        assert all(refused in reason for reason in reasons), reasons
    else:
        assert not reasons, f"{name}: {reasons}"
        assert outcome.of("graph"), f"{name} has nothing that grows"
    labels = {mode for _, mode, _ in (*outcome.accepted, *outcome.refused)}
    assert pinned or labels == {forced or mode for mode, forced in MODES}
