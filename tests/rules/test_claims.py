"""The elementwise table, field by field, against the functions themselves, in both directions."""

import numpy as np
import pytest

from meristem.rewrite.cell import Cell
from meristem.rewrite.formula import FALSE, TRUE
from tests.rules.elementwise_cases import BOOLEAN, ELEMENTWISE, INTEGER, NONNEG, POSITIVE

# True of the function and not claimed: nothing is lost but freedom.
# Discontinuous at zero, where a zero of the proof may be 1e-17.
ZERO_NOT_CLAIMED = {"sign", "floor", "ceil", "floor_div", "mod", "bit_and", "ne", "lt", "gt", "xor"}
ZERO_NOT_CLAIMED |= {"and", "or", "bit_or", "pow"}  # `pow` states its own, by the exponent
LINEAR_NOT_CLAIMED = {"pow"}
HOMOGENEOUS_NOT_CLAIMED = {"not", "and", "or", "xor"}  # operands without a factor
NONNEG_NOT_CLAIMED = {
    "leaky_relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "mish", "elu", "selu", "hard_swish",
    "floor", "ceil", "round", "trunc", "isnan", "isinf", "div", "floor_div", "mod", "not", "bit_and",
    "bit_or",
}  # fmt: skip
POSITIVE_NOT_CLAIMED = {
    "leaky_relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "mish", "elu", "selu", "hard_swish",
    "ceil", "abs", "relu", "hard_sigmoid", "div", "mod",
}  # fmt: skip
# A remainder of a remainder is one for positive divisors alone; booleans are no activations.
IDEMPOTENT_NOT_CLAIMED = {"mod", "pow"} | BOOLEAN | INTEGER
FACTORS = (0.37, 2.5)

BY_KIND = {row.kind: row for row in ELEMENTWISE}
REAL = [k for k in BY_KIND if k not in INTEGER | BOOLEAN | {"where"}]


def sample(kind, n, sign=None):
    """Operands on which the operator is finite: away from ties, several magnitudes."""
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(400) * 3 for _ in range(n)]
    if sign == "positive" or kind in POSITIVE or (kind == "pow" and sign is None):
        arrays = [np.abs(a) + 0.1 for a in arrays]
    elif sign == "nonneg" or kind in NONNEG:
        arrays = [np.abs(a) * (np.arange(a.size) % 5 > 0) for a in arrays]
        if kind in ("div", "floor_div", "mod"):
            arrays[-1] += 0.1
    if kind in INTEGER:
        arrays = [np.asarray(a * 10, np.int64) for a in arrays]
    if kind in BOOLEAN:
        arrays = [a > 0 for a in arrays]
    return arrays


def value(row, *arrays):
    with np.errstate(all="ignore"):
        options = {"to": "float64"} if row.kind == "cast" else {}
        return np.asarray(row.function(*arrays, **options), np.float64)


def keeps_zero(row):
    """Is f zero where the row's operands are, whatever the others hold?"""
    if row.kind == "where":
        return True
    arrays = sample(row.kind, row.arity)
    zero = [np.zeros_like(a) for a in arrays]
    ways = {
        "keep": [zero],
        "first": [[zero[0], *arrays[1:]]],
        "any": [[zero[0], *arrays[1:]], [*arrays[:-1], zero[-1]]],
        "all": [zero],
        "none": [zero if row.arity == 1 or row.kind not in POSITIVE else [zero[0], *arrays[1:]]],
    }[row.zero]
    return all(np.all(value(row, *way) == 0) for way in ways)


@pytest.mark.parametrize("kind", [k for k in BY_KIND if BY_KIND[k].zero != "none"])
def test_a_zero_that_passes(kind):
    assert keeps_zero(BY_KIND[kind])
    if kind in ("where", *INTEGER, *BOOLEAN, "isnan", "isinf"):
        return
    row = BY_KIND[kind]  # and nearly zero gives nearly zero: the claim must survive rounding
    arrays = sample(kind, row.arity)
    for tiny in (1e-17, -1e-17) if kind not in NONNEG else (1e-17,):
        operands = [np.full_like(a, tiny) for a in arrays]
        if row.zero == "first":
            operands[1:] = arrays[1:]
        assert np.all(np.abs(value(row, *operands)) < 1e-8)


@pytest.mark.parametrize("kind", [k for k in BY_KIND if BY_KIND[k].zero == "none"])
def test_a_zero_that_does_not(kind):
    assert not keeps_zero(BY_KIND[kind]) or kind in ZERO_NOT_CLAIMED


def is_linear(row):
    """Is the mean of results the result of means, in each operand that the row allows alone?"""
    arrays = sample(row.kind, row.arity)
    sides = range(row.arity) if row.zero in ("any", "all", "keep") else [0]
    for i in sides:
        if row.kind == "where" and i == 0:
            continue
        parts = [a.reshape(20, 20) for a in arrays]
        fixed = [np.broadcast_to(p[:, :1], p.shape) for p in parts]
        if row.kind == "where":
            fixed[0] = fixed[0] > 0
        operands = [parts[j] if j == i else fixed[j] for j in range(row.arity)]
        of_mean = value(
            row, *(p.mean(1, keepdims=True) if p.dtype.kind == "f" else p[:, :1] for p in operands)
        )
        if not np.allclose(
            value(row, *operands).mean(1, keepdims=True), of_mean, rtol=1e-9, atol=1e-12
        ):
            return False
    return True


@pytest.mark.parametrize("kind", REAL)
def test_linearity(kind):
    row = BY_KIND[kind]
    if row.linear:
        assert is_linear(row)
    elif kind not in ("isnan", "isinf", "eq", "ne"):  # constant on almost all operands
        assert not is_linear(row) or kind in LINEAR_NOT_CLAIMED


def degree(row):
    """The degree to which a positive factor of the first operand (or of all) comes out, or None."""
    arrays = sample(row.kind, row.arity)
    base = value(row, *arrays)
    how = row.scale
    found = []
    for c in FACTORS:
        operands = [
            a * c if i == 0 or how in ("equal", "compare") else a for i, a in enumerate(arrays)
        ]
        got = value(row, *operands)
        keep = np.abs(base) > 1e-9
        if not np.any(keep):
            return 0.0
        ratio = got[keep] / base[keep]
        if not np.allclose(ratio, ratio[0], rtol=1e-9) or ratio[0] <= 0:
            return None
        found.append(np.log(ratio[0]) / np.log(c))
    return round(found[0], 9) if np.isclose(*found) else None


@pytest.mark.parametrize("kind", REAL)
def test_homogeneity(kind):
    row = BY_KIND[kind]
    claimed = {"equal": 1.0, "product": 1.0, "quotient": 1.0, "compare": 0.0}.get(
        row.scale, row.scale
    )
    got = degree(row)
    if claimed == "power":
        row = BY_KIND["pow"]
        x = sample("pow", 1)[0]
        assert np.allclose(row.function(2.5 * x, 1.7), 2.5**1.7 * row.function(x, 1.7))
    elif claimed == "none":
        assert got is None or kind in HOMOGENEOUS_NOT_CLAIMED
    else:
        assert got == claimed
    if row.scale in ("quotient", "product"):
        arrays = sample(kind, 2)
        sign = -1.0 if row.scale == "quotient" else 1.0
        assert np.allclose(value(row, arrays[0], 2.5 * arrays[1]), 2.5**sign * value(row, *arrays))


def claimed_sign(row, nonneg, pos):
    cells = [Cell(nonneg=TRUE if nonneg else FALSE, pos=TRUE if pos else FALSE)] * row.arity
    return tuple(f is TRUE for f in row.sign(*cells)) if row.sign else (False, False)


@pytest.mark.parametrize("kind", [k for k in BY_KIND if k not in ("where", "pow")])
def test_signs(kind):
    row = BY_KIND[kind]
    for sign in (None, "nonneg", "positive"):
        nonneg, pos = claimed_sign(row, sign is not None, sign == "positive")
        if sign is None and kind in POSITIVE:
            continue  # the domain makes the operand positive
        if sign == "nonneg" and row.domain == "pos" and row.arity == 1:
            continue
        got = value(row, *sample(kind, row.arity, sign))
        assert not nonneg or np.all(got >= 0)
        assert not pos or np.all(got > 0)
        if sign == "nonneg" and np.all(got >= 0):
            assert nonneg or kind in NONNEG_NOT_CLAIMED
        if sign == "positive" and np.all(got > 0):
            assert pos or kind in POSITIVE_NOT_CLAIMED | INTEGER | BOOLEAN or row.result == "bool"


@pytest.mark.parametrize("kind", [k for k in BY_KIND if k not in ("where", *INTEGER, *BOOLEAN)])
def test_domains(kind):
    """Finite wherever the row asks nothing, or where its demand is met; not finite at zero beyond it."""
    row = BY_KIND[kind]
    rng = np.random.default_rng(3)
    edge = np.concatenate([rng.standard_normal(200) * 4, [0.0, -1.0, 1.0, 5.0, -5.0]])
    free = [edge, rng.permutation(edge)][: row.arity]
    if row.domain:
        met = [*free[:-1], np.abs(free[-1]) + (1e-3 if row.domain == "pos" else 0.0)]
        assert np.all(np.isfinite(value(row, *met)))
        assert not np.all(np.isfinite(value(row, *free[:-1], -np.abs(free[-1])))), "asks too much"
    elif kind != "pow":
        assert np.all(np.isfinite(value(row, *free)))


@pytest.mark.parametrize(
    "kind", [k for k in REAL if BY_KIND[k].arity < 3 and not BY_KIND[k].result]
)
def test_idempotent(kind):
    """f(f(x)) = f(x), with the same second operand."""
    row = BY_KIND[kind]
    first, *rest = sample(kind, row.arity)
    once = value(row, first, *rest)
    holds = np.array_equal(value(row, once, *rest), once, equal_nan=True)
    assert holds or not row.idempotent
    assert row.idempotent or not holds or kind in IDEMPOTENT_NOT_CLAIMED | {"cast"}
