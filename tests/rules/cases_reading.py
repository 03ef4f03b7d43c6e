"""Operators that read by index, look along axes, or make tensors; and rules that stand alone."""

from __future__ import annotations

import numpy as np

from meristem.rewrite.graph import Graph, Value
from tests.rules.cases import CASES, case, hidden
from tests.rules.cases_mixing import conv, tail
from tests.rules.view_carrier import Net

# -- reading by index -------------------------------------------------------------------------------


@case("take: embedding")
def _embedding(b: Net) -> Value:
    ids = b.input(2, 3, dtype="int64")
    y = b.apply("take", b.weight(5, 4), ids, axis=0, unsigned=True)
    return b.reshape(b.rms(y), [6, 4])


@case("take: a constant negative index")
def _negative(b: Net) -> Value:
    h = hidden(b, 5)
    return b.concat([b.apply("take", h, b.literal(np.array([-2, 0]), "int64"), axis=1), h], 1)


@case("take: one constant index for two axes")
def _shared_index(b: Net) -> Value:
    x = b.input(2, 3)
    i = b.literal(np.array([-2, 0]), "int64")
    p, q = b.dense(x, 5), b.dense(x, 7)
    parts = [b.apply("take", h, i, axis=1) for h in (p, q)]
    return b.concat([*parts, b.apply("relu", b.concat([p, q], 1))], 1)


@case("take: an axis that grows in its middle")
def _middle_index(b: Net) -> Value:
    x = b.input(2, 3)
    h = b.concat([b.dense(x, 3), b.dense(x, 2)], 1)
    picked = b.apply("take", h, b.literal(np.array([4, 1, 3]), "int64"), axis=1)
    return b.concat([picked, b.apply("relu", h)], 1)


@case("take: an index that depends on the data")
def _data_index(b: Net) -> Value:
    ids = b.apply("sub", b.input(2, dtype="int64"), b.literal(1, "int64"))
    y = b.apply("take", b.weight(5, 4), ids, axis=0)
    return b.apply("relu", y)


@case("take: a range of positions into a table")
def _positions(b: Net) -> Value:
    t = b.apply("range", start=0, step=1, length=3, dtype="int64")
    y = b.apply("add", b.apply("take", b.weight(3, 4), t, axis=0), b.weight(3, 4))
    y = b.apply("mul", y, b.reshape(b.dense(b.input(2, 3), 4), [2, 1, 4]))
    return b.dense(b.permute(y, [0, 2, 1]), 5)


@case("take_many: a table of two axes")
def _take_many(b: Net) -> Value:
    i, j = b.literal(np.array([0, 1]), "int64"), b.literal(np.array([1, 2]), "int64")
    bias = b.emit("take_many", [b.weight(2, 3, 5), i, j], {"axes": [0, 1]}).output
    return b.apply("relu", b.apply("add", b.dense(b.input(2, 3), 5), bias))


@case("take_along: the largest of every row")
def _take_along(b: Net) -> Value:
    h = b.dense(b.input(2, 4, 3), 5)
    best = b.apply("extremum", h, axes=(1,), keep=True, how="argmax")
    return b.reshape(b.apply("take_along", h, best, axis=1), [2, 5])


# -- looking along axes -----------------------------------------------------------------------------


@case("sum: squares")
def _sum(b: Net) -> Value:
    h = hidden(b, 5)
    total = b.apply("sum", b.apply("mul", h, h), axes=(1,), keep=True, mean=False)
    return b.concat([total, h], 1)


@case("sum: mean over a grown axis")
def _mean(b: Net) -> Value:
    y = b.apply("sum", b.apply("gelu", hidden(b, 5)), axes=(1,), keep=True, mean=True)
    return b.dense(y, 3)


@case("sum: over two grown axes")
def _sum_two(b: Net) -> Value:
    y = b.contract(b.input(2, 3), b.weight(4, 5, 3), [0, 9], [1, 2, 9], [0, 1, 2])
    y = b.apply("sum", b.apply("relu", y), axes=(1, 2), keep=False, mean=False)
    return b.dense(b.reshape(y, [2, 1]), 3)


@case("sum: mean over pieces")
def _sum_pieces(b: Net) -> Value:
    x = b.input(2, 3)
    y = b.concat([b.dense(x, 4), b.dense(x, 3)], 1)
    return b.dense(b.apply("sum", y, axes=(1,), keep=True, mean=True), 3)


@case("sum: of a kept grown axis")
def _sum_kept(b: Net) -> Value:
    h = b.dense(b.input(2, 4, 3), 5)
    return b.layer_norm(b.apply("sum", h, axes=(1,), keep=False, mean=True))


@case("sum: ones of the size of an axis")
def _count(b: Net) -> Value:
    h = hidden(b, 5)
    ones = b.apply("full", shape=(2, 5), value=1.0, dtype="float64")
    y = b.apply("add", h, ones)
    total = b.apply("sum", ones, axes=(1,), keep=True, mean=False)
    return b.apply("add", b.dense(y, 3), total)


@case("sum: a weight of given lengths")
def _lengths(b: Net) -> Value:
    v, g = b.weight(6, 3), b.weight(6, 1)
    square = b.apply("pow", v, b.literal(2.0))
    length = b.apply("sqrt", b.apply("sum", square, axes=(1,), keep=True, mean=False))
    w = b.apply("mul", v, b.apply("div", g, length))
    return b.apply("relu", b.linear(b.input(2, 3), w))


@case("sum: of what is positive and what is not")
def _mixed(b: Net) -> Value:
    h = hidden(b, 5)
    parts = [b.reshape(x, [2, 5, 1]) for x in (b.apply("exp", h), h)]
    return b.apply("sum", b.concat(parts, 2), axes=(2,), keep=False, mean=False)


@case("extremum: maxout")
def _maxout(b: Net) -> Value:
    y = b.reshape(hidden(b, 12), [2, 4, 3])
    return b.apply("extremum", y, axes=(2,), keep=False, how="max")


@case("extremum: over a grown axis")
def _max_hidden(b: Net) -> Value:
    return b.dense(b.apply("extremum", hidden(b, 4), axes=(1,), keep=True, how="max"), 3)


@case("softmax: over a grown axis")
def _softmax(b: Net) -> Value:
    return b.apply("softmax", hidden(b, 4), axis=1)


@case("softmax: of every head")
def _softmax_heads(b: Net) -> Value:
    y = b.reshape(hidden(b, 12), [2, 3, 4])
    return b.reshape(b.apply("softmax", b.rms(y), axis=2), [2, 12])


@case("softmax: log, beside a grown axis")
def _log_softmax(b: Net) -> Value:
    y = b.dense(b.input(2, 4, 3), 5)
    return b.reshape(b.apply("softmax", y, axis=1, log=True), [8, 5])


for _how in ("cumsum", "diff", "sort", "argsort", "topk", "topk_index", "tril"):

    @case(f"scan: {_how} of a grown axis")
    def _scan(b: Net, how: str = _how) -> Value:
        y = b.apply("scan", hidden(b, 4), how=how, axis=1, k=2)
        if not y.is_float:
            y = b.apply("cast", y, options={"to": "float64"}, dtype="float64")
        return b.apply("relu", y)

    @case(f"scan: {_how} beside a grown axis")
    def _scan_beside(b: Net, how: str = _how) -> Value:
        h = b.rms(b.dense(b.input(2, 4, 3), 5))
        h = b.permute(h, [2, 0, 1]) if how == "tril" else h
        y = b.apply("scan", h, how=how, axis=1, k=2)
        y = b.permute(y, [1, 2, 0]) if how == "tril" else y
        if not y.is_float:
            y = b.apply("cast", y, options={"to": "float64"}, dtype="float64")
        return b.reshape(y, [-1 if y.shape[1] == 0 else y.shape[0] * y.shape[1], 5])


for _how in ("max", "mean"):

    @case(f"pool: {_how}")
    def _pool(b: Net, how: str = _how) -> Value:
        y = b.apply("relu", conv(b, b.input(2, 3, 6), 4))
        y = b.apply("pool", y, how=how, kernel=(2,), stride=(2,), pads=(0,), ceil=False)
        return tail(b, y)

    @case(f"pool: {_how}, norm on either side")
    def _pool_norm(b: Net, how: str = _how) -> Value:
        y = b.permute(b.dense(b.input(2, 6, 3), 4), [0, 2, 1])
        y = b.norm(y, [1], 0.1, False, "eps")
        y = b.apply("pool", y, how=how, kernel=(3,), stride=(2,), pads=(1,), ceil=False)
        return b.reshape(b.rms(b.permute(y, [0, 2, 1])), [6, 4])


# -- making -----------------------------------------------------------------------------------------


@case("full: a constant beside weights")
def _full(b: Net) -> Value:
    h = b.rms(hidden(b, 5))
    return b.apply("mul", h, b.apply("full", shape=(5,), value=0.5, dtype="float64"))


@case("range: slopes of heads")
def _range(b: Net) -> Value:
    t = b.apply("range", start=1, step=1, length=4, dtype="float64")
    slopes = b.apply("exp", b.apply("neg", t))
    return b.apply("relu", b.apply("mul", hidden(b, 4), slopes))


@case("range: beside a norm")
def _range_norm(b: Net) -> Value:
    t = b.apply("range", start=0, step=1, length=4, dtype="float64")
    return b.layer_norm(b.apply("add", hidden(b, 4), t))


@case("opaque: nothing passes")
def _opaque(b: Net) -> Value:
    """A barrier cannot be evaluated, so it is a dead end here; its pins are what counts."""
    h = hidden(b, 4)
    b.opaque([h], [(2, 4)], ["float64"])
    b.graph.ops.pop()
    return b.apply("relu", h)


@case("literal: a table beside a grown axis")
def _table(b: Net) -> Value:
    return b.apply("mul", hidden(b, 4), b.literal(np.array([1.0, -0.5, 2.0, 0.3])))


@case("pow: a table of exponents")
def _exponents(b: Net) -> Value:
    h = b.apply("exp", b.rms(hidden(b, 4)))
    return b.apply("pow", h, b.literal(np.array([1.0, 0.5, 2.0, 3.0])))


@case("pow: exponents that are weights")
def _weight_exponents(b: Net) -> Value:
    base = b.weight(data=np.array(-2.0))
    p = b.weight(4, data=np.array([1.0, 2.0, 3.0, 2.0]))
    return b.apply("mul", hidden(b, 4), b.apply("pow", base, p))


# -- where one rule alone stands between a growth and a wrong answer ----------------------------------


@case("holes: 0/0 at new coordinates")
def _zero_by_zero(b: Net) -> Value:
    h = hidden(b, 5)
    return b.rms(b.apply("div", h, b.apply("abs", h)))


@case("holes: a bias beside a scaled product")
def _bias(b: Net) -> Value:
    h = b.contract(b.rms(hidden(b, 4), gain=False), b.literal(np.ones(())), [0, 1], [], [0, 1])
    return b.apply("add", h, b.weight(4))


@case("contract: bilinear, mean")
def _bilinear_mean(b: Net) -> Value:
    x = b.input(2, 3)
    return b.layer_norm(b.contract(b.dense(x, 4), b.dense(x, 4), [0, 1], [0, 1], [0, 1]))


@case("norm: without epsilon, more rows")
def _no_eps_rows(b: Net) -> Value:
    y = b.reshape(hidden(b, 6), [2, 2, 3])
    return b.rms(b.reshape(b.norm(y, [2], 0.0, False, "eps"), [2, 6]))


@case("concat: two rows of one width")
def _rows(b: Net) -> Value:
    return b.apply("relu", b.concat([hidden(b, 4), hidden(b, 4)], 0))


@case("extremum: over a grown axis, least")
def _min_hidden(b: Net) -> Value:
    return b.dense(b.apply("extremum", hidden(b, 4), axes=(1,), keep=True, how="min"), 3)


@case("sum: of a kept grown axis, after a relu")
def _sum_relu(b: Net) -> Value:
    h = b.apply("relu", b.dense(b.input(2, 4, 3), 5))
    return b.layer_norm(b.apply("sum", h, axes=(1,), keep=False, mean=False))


@case("softmax: of every head, alone")
def _softmax_scaled(b: Net) -> Value:
    y = b.reshape(b.rms(hidden(b, 12), gain=False), [2, 3, 4])
    return b.reshape(b.apply("softmax", y, axis=2), [2, 12])


@case("softmax: beside a layer norm")
def _softmax_mean(b: Net) -> Value:
    y = b.apply("softmax", b.dense(b.input(2, 4, 3), 5), axis=1)
    return b.reshape(b.layer_norm(y), [8, 5])


@case("pool: max, layer norm after it")
def _pool_mean(b: Net) -> Value:
    y = b.permute(b.dense(b.input(2, 6, 3), 4), [0, 2, 1])
    y = b.apply("pool", y, how="max", kernel=(2,), stride=(2,), pads=(0,), ceil=False)
    return b.reshape(b.layer_norm(b.permute(y, [0, 2, 1])), [6, 4])


def _scaled_output() -> Graph:
    b = Net()
    y = b.apply("sum", b.apply("relu", hidden(b, 5)), axes=(1,), keep=True, mean=True)
    return b.output(y)


CASES["sum: a mean that is the output"] = _scaled_output


@case("take_many: from the end")
def _take_many_end(b: Net) -> Value:
    i, j = b.literal(np.array([0, -1]), "int64"), b.literal(np.array([1, 2]), "int64")
    bias = b.emit("take_many", [b.weight(2, 3, 5), i, j], {"axes": [0, 1]}).output
    return b.apply("relu", b.apply("add", b.dense(b.input(2, 3), 5), bias))
