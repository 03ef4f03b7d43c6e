"""Lowering of ATen: reductions, orders and windows along axes."""

from __future__ import annotations

from math import prod

import numpy as np

from meristem.carriers.aten import Call, aten
from meristem.rewrite.graph import Value


def _axes(c: Call, name: str = "dim") -> tuple[int, ...]:
    rank = len(c.value("self").shape)
    got = c.num(name) if name in c.position else None
    if got is None or got == []:
        return tuple(range(rank))
    return tuple(a % rank for a in (got if isinstance(got, list) else [got]))


@aten("sum.dim_IntList", "mean.dim", "sum.default", "mean.default")
def total(c: Call) -> Value:
    x = c.value("self")
    if not x.is_float and "sum" in str(c.node.target):
        x = c.b.apply("cast", x, options={"to": c.dtype()}, dtype=c.dtype())
    keep = bool(c.args.get("keepdim") or False)
    return c.b.apply("sum", x, axes=_axes(c), keep=keep, mean="mean" in str(c.node.target))


@aten("var.correction", "var.dim", "var.default")
def variance(c: Call) -> Value:
    return _variance(c)[0]


@aten("std.correction", "std.dim", "std.default")
def deviation(c: Call) -> Value:
    return c.b.apply("sqrt", _variance(c)[0])


@aten("var_mean.correction", "var_mean.dim", "var_mean.default")
def variance_and_mean(c: Call) -> list[Value]:
    return list(_variance(c))


@aten("std_mean.correction", "std_mean.dim", "std_mean.default")
def deviation_and_mean(c: Call) -> list[Value]:
    var, mean = _variance(c)
    return [c.b.apply("sqrt", var), mean]


def _variance(c: Call) -> tuple[Value, Value]:
    """Mean of squared differences times n / (n - correction), and the mean."""
    x, axes, keep = c.value("self"), _axes(c), bool(c.args.get("keepdim") or False)
    correction = c.args.get("correction", 1) if "correction" in c.position else None
    if correction is None:
        correction = int(c.args.get("unbiased") is not False)
    middle = c.b.apply("sum", x, axes=axes, keep=True, mean=True)
    square = c.b.apply("pow", c.b.apply("sub", x, middle), c.b.literal(2.0, x.dtype))
    n = prod(x.shape[a] for a in axes)
    # With a correction the factor is the operator's own and depends on n, so that n has to stay.
    why = {"why": "divides by their number less a correction"} if correction else {}
    var = c.b.apply("sum", square, axes=axes, keep=keep, mean=True, **why)
    if correction:
        factor = c.b.literal(n / max(n - correction, 0) if n > correction else np.inf, x.dtype)
        var = c.b.apply("mul", var, factor)
    mean = middle if keep else c.b.apply("sum", x, axes=axes, keep=False, mean=True)
    return var, mean


@aten("cosine_similarity.default")
def cosine_similarity(c: Call) -> Value:
    """The sum of products of two vectors, each divided by the larger of its length and eps."""
    rank = max(len(c.value(n).shape) for n in ("x1", "x2"))
    back = c.num("dim") % rank - rank
    units = []
    for name in ("x1", "x2"):
        x = c.value(name)
        axes = (len(x.shape) + back,)
        square = c.b.apply("pow", x, c.b.literal(2.0, x.dtype))
        size = c.b.apply("sqrt", c.b.apply("sum", square, axes=axes, keep=True, mean=False))
        eps = c.b.literal(float(c.num("eps")), x.dtype)
        units.append(c.b.apply("div", x, c.b.apply("maximum", size, eps)))
    both = c.b.apply("mul", *units)
    return c.b.apply("sum", both, axes=(len(both.shape) + back,), keep=False, mean=False)


@aten("linalg_vector_norm.default")
def length(c: Call) -> Value | None:
    """The 2-norm (F.normalize): the root of the sum of squares; and the sum of sizes."""
    x, keep = c.value("self"), bool(c.args["keepdim"])
    if c.num("ord") == 1:
        return c.b.apply("sum", c.b.apply("abs", x), axes=_axes(c), keep=keep, mean=False)
    if c.num("ord") != 2:
        return None
    square = c.b.apply("pow", x, c.b.literal(2.0, x.dtype))  # which is proved non-negative
    return c.b.apply("sqrt", c.b.apply("sum", square, axes=_axes(c), keep=keep, mean=False))


@aten(
    "amax.default",
    "amin.default",
    "any.dim",
    "any.default",
    "all.default",
    "all.dim",
    "prod.dim_int",
)
def extremum(c: Call) -> Value:
    how = (
        str(c.node.target).split(".")[1].removeprefix("a")
        if "am" in str(c.node.target)
        else str(c.node.target).split(".")[1]
    )
    keep = bool(c.args.get("keepdim") or False)
    return c.b.apply("extremum", c.value("self"), axes=_axes(c), keep=keep, how=how)


@aten("max.dim", "min.dim")
def extremum_and_place(c: Call) -> list[Value | None]:
    how, keep = str(c.node.target).split(".")[1], bool(c.args["keepdim"])
    x, axes = c.value("self"), _axes(c)
    place = c.b.apply("extremum", x, axes=axes, keep=keep, how=f"arg{how}") if c.wants(1) else None
    return [c.b.apply("extremum", x, axes=axes, keep=keep, how=how), place]


@aten("argmax.default", "argmin.default")
def argmax(c: Call) -> Value | None:
    if c.args["dim"] is None:
        return None
    how = str(c.node.target).split(".")[1]
    return c.b.apply(
        "extremum", c.value("self"), axes=_axes(c), keep=bool(c.args["keepdim"]), how=how
    )


@aten("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default")
def softmax(c: Call) -> Value:
    x = c.value("self")
    return c.b.apply(
        "softmax", x, axis=c.num("dim") % len(x.shape), log="log" in str(c.node.target)
    )


@aten("cumsum.default")
def cumsum(c: Call) -> Value:
    x = c.value("self")
    x = (
        c.b.apply("cast", x, options={"to": c.dtype()}, dtype=c.dtype())
        if x.dtype != c.dtype()
        else x
    )
    return c.b.apply("scan", x, how="cumsum", axis=c.num("dim") % len(x.shape))


@aten("diff.default")
def diff(c: Call) -> Value | None:
    x, before, after = c.value("self"), c.maybe("prepend"), c.maybe("append")
    if c.num("n") != 1 or x.dtype == "bool":
        return None
    axis = c.num("dim") % len(x.shape)
    parts = [v for v in (before, x, after) if v is not None]
    whole = c.b.concat(parts, axis) if len(parts) > 1 else x
    return c.b.apply("scan", whole, how="diff", axis=axis)


@aten("tril.default", "triu.default")
def triangle(c: Call) -> Value:
    how = str(c.node.target).split(".")[1]
    return c.b.apply("scan", c.value("self"), how=how, k=c.num("diagonal"))


@aten("topk.default", "sort.default", "sort.stable")
def order(c: Call) -> list[Value]:
    x = c.value("self")
    axis = c.num("dim") % len(x.shape)
    if "topk" in str(c.node.target):
        at = {"axis": axis, "k": c.num("k"), "descending": bool(c.args["largest"])}
        slots = {"k": c.b.slot(c.role("k"))}
        return [c.b.apply("scan", x, slots=slots, how=how, **at) for how in ("topk", "topk_index")]
    at = {"axis": axis, "descending": bool(c.args["descending"])}
    return [c.b.apply("scan", x, how=how, **at) for how in ("sort", "argsort")]
