"""Lowering of ATen: reading and writing by index."""

from __future__ import annotations

import numpy as np

from meristem.carriers import indices
from meristem.carriers.aten import Call, aten
from meristem.rewrite.graph import Literal, Value


@aten("embedding.default")
def embedding(c: Call) -> Value:
    return c.b.apply("take", c.value("weight"), c.value("indices"), axis=0, unsigned=True)


@aten("index_select.default")
def index_select(c: Call) -> Value:
    x = c.value("self")
    return c.b.apply("take", x, c.value("index"), axis=c.num("dim") % len(x.shape))


@aten("index.Tensor", "_unsafe_index.Tensor")
def index(c: Call) -> Value | None:
    x = c.value("self")
    given = [(a, c.values[n]) for a, n in enumerate(c.args["indices"]) if n is not None]
    if any(v.dtype == "bool" for _, v in given):
        return None
    if len(given) == 1:
        axis, i = given[0]
        if isinstance(i, Literal) and i.data.shape == (1,):
            start = int(i.data[0]) % x.shape[axis]
            y = c.b.slice(x, axis, start, start + 1)
            y.producer.slots["start"] = i.slot  # type: ignore[union-attr,assignment]
            if i.slot is None:
                del y.producer.slots["start"]  # type: ignore[union-attr]
            return y
        return c.b.apply("take", x, i, axis=axis)
    return c.b.emit(
        "take_many", [x, *(v for _, v in given)], {"axes": [a for a, _ in given]}
    ).output


@aten("gather.default")
def gather(c: Call) -> Value:
    x = c.value("self")
    return c.b.apply("take_along", x, c.value("index"), axis=c.num("dim") % len(x.shape))


@aten("embedding_bag.default", "embedding_bag.padding_idx")
def embedding_bag(c: Call) -> list[Value | None] | None:
    """Rows of a table summed bag by bag, where every bag has as many."""
    ids, starts = c.value("indices"), c.value("offsets")
    plain = c.maybe("per_sample_weights") is None and not c.args["include_last_offset"]
    padded = c.args.get("padding_idx") not in (None, -1)
    count = _bag(starts, ids)
    if not plain or padded or count is None or any(c.wants(i) for i in (1, 2, 3)):
        return None
    bags = c.b.reshape(ids, [starts.shape[0], count])
    rows = c.b.apply("take", c.value("weight"), bags, axis=0, unsigned=True)
    if c.num("mode") == 2:
        y = c.b.apply("extremum", rows, axes=(1,), keep=False, how="max")
    else:
        y = c.b.apply("sum", rows, axes=(1,), keep=False, mean=c.num("mode") == 1)
    return [y, None, None, None]


def _bag(starts: Value, ids: Value) -> int | None:
    """The size of every bag, where it is one: bags start at 0, n, 2n, ..."""
    count, rest = divmod(ids.shape[0], max(starts.shape[0], 1))
    if rest or not count or len(ids.shape) != 1:
        return None
    made = starts.producer
    if isinstance(starts, Literal):
        even = np.array_equal(starts.data, np.arange(starts.shape[0]) * count)
    else:
        even = made is not None and made.kind == "range"
        even = even and made.attrs["start"] == 0 and made.attrs["step"] == count  # type: ignore[union-attr]
    return count if even else None


# -- writing by index ------------------------------------------------------------------------------


@aten("scatter.src", "scatter.value", "scatter_add.default")
def scatter(c: Call) -> Value:
    x, i = c.value("self"), c.value("index")
    z = c.value("src") if "src" in c.position else _filled(c, i.shape, "value")
    if z.shape != i.shape:  # what lies beyond the index is not read
        for a, n in enumerate(i.shape):
            z = c.b.slice(z, a, 0, n) if n != z.shape[a] else z
    add = "add" in str(c.node.target)
    return c.b.apply("scatter", x, i, z, axis=c.num("dim") % len(x.shape), add=add)


def _filled(c: Call, shape: tuple[int, ...], name: str) -> Value:
    """A number in every entry."""
    return c.b.apply("full", shape=shape, value=float(c.num(name)), dtype=c.dtype())


@aten("index_add.default", "index_copy.default", "index_fill.int_Scalar")
def write_rows(c: Call) -> Value | None:
    x, i = c.value("self"), c.value("index")
    if not x.shape or len(i.shape) != 1:
        return None
    axis, name = c.num("dim") % len(x.shape), str(c.node.target)
    if "fill" in name:
        shape = tuple(i.shape[0] if a == axis else n for a, n in enumerate(x.shape))
        return indices.write(c.b, x, [axis], [i], _filled(c, shape, "value"), add=False)
    z = c.value("source")
    if c.args.get("alpha") not in (None, 1):
        z = c.b.apply("mul", z, c.b.literal(float(c.num("alpha")), z.dtype))
    return indices.write(c.b, x, [axis], [i], z, add="add" in name)


@aten("index_put.default", "_unsafe_index_put.default")
def index_put(c: Call) -> Value | None:
    x, z, add = c.value("self"), c.value("values"), bool(c.args["accumulate"])
    given = [(a, c.values[n]) for a, n in enumerate(c.args["indices"]) if n is not None]
    axes, index = [a for a, _ in given], [i for _, i in given]
    if [i.dtype for i in index] == ["bool"]:
        return None if add else _where(c, x, axes[0], index[0], z)
    if any(i.dtype == "bool" for i in index):
        return None
    return indices.write(c.b, x, axes, index, z, add=add)


def _where(c: Call, x: Value, axis: int, mask: Value, z: Value) -> Value | None:
    """A mask over some axes, and one number for all that it marks."""
    if any(n != 1 for n in z.shape):
        return None
    rest = len(x.shape) - axis - len(mask.shape)
    mask = c.b.reshape(mask, [*mask.shape, *[1] * rest])
    return c.b.apply("where", mask, c.b.reshape(z, []), x)
