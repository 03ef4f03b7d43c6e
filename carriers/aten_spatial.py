"""Lowering of ATen: windows, interpolation and rearrangement of spatial axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from meristem.carriers import spatial
from meristem.carriers.aten import Call, aten
from meristem.rewrite.graph import Array, Value


@aten(
    "max_pool1d.default",
    "max_pool2d.default",
    "max_pool3d.default",
    "max_pool2d_with_indices.default",
    "max_pool3d_with_indices.default",
    "avg_pool1d.default",
    "avg_pool2d.default",
    "avg_pool3d.default",
)
def pool(c: Call) -> Any:
    name = _name(c)
    x = c.value("self")
    rank = _rank(name)

    def each(arg: str, default: int) -> list[int]:
        got = c.num(arg) if arg in c.position else None
        got = [default] if got in (None, []) else got if isinstance(got, list) else [got]
        return got * rank if len(got) == 1 else got

    kernel = each("kernel_size", 1)
    stride = each("stride", 0)
    pads = each("padding", 0)
    if any(d != 1 for d in each("dilation", 1)) or c.args.get("divisor_override"):
        return None
    if c.args.get("count_include_pad") is False and any(pads):
        return None
    y = c.b.apply(
        "pool",
        x,
        how="max" if "max" in name else "mean",
        ceil=bool(c.args.get("ceil_mode") or False),
        kernel=tuple(kernel),
        stride=tuple(kernel if stride == [0] * rank else stride),
        pads=tuple(pads),
    )
    return _without_indices(c, y) if "with_indices" in name else y


@aten(
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "_adaptive_avg_pool2d.default",
    "adaptive_avg_pool3d.default",
    "_adaptive_avg_pool3d.default",
    "adaptive_max_pool1d.default",
    "adaptive_max_pool2d.default",
    "adaptive_max_pool3d.default",
)
def adaptive_pool(c: Call) -> Any:
    """Windows of one size where the target divides; else, of means, a table for each axis."""
    name, x = _name(c), c.value("self")
    rank, is_max = _rank(name), "max" in name
    target = c.num("output_size")
    target = target * rank if len(target) == 1 else target
    sizes = x.shape[-rank:]
    if not any(n % t for n, t in zip(sizes, target, strict=True)):
        kernel = tuple(n // t for n, t in zip(sizes, target, strict=True))
        attrs: dict[str, Any] = {"kernel": kernel, "stride": kernel, "pads": (0,) * rank}
        y = c.b.apply("pool", x, how="max" if is_max else "mean", ceil=False, **attrs)
    elif is_max:
        return None
    else:
        y = x
        for i, (n, t) in enumerate(zip(sizes, target, strict=True)):
            if n != t:
                y = spatial.along(c.b, y, len(x.shape) - rank + i, spatial.averages(n, t))
    return _without_indices(c, y) if is_max else y


def _without_indices(c: Call, y: Value) -> list[Value | None] | None:
    """The first result; the places of the largest entries are not known in the view."""
    return None if c.wants(1) else [y, None]


def _name(c: Call) -> str:
    return str(c.node.target).split(".")[1]


def _rank(name: str) -> int:
    """How many spatial axes: the digit before the d."""
    return int(name[name.index("d", name.index("pool")) - 1])


# -- interpolation ---------------------------------------------------------------------------------


@aten(
    *(
        f"{name}.{overload}"
        for name in (
            *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
            *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
            "upsample_linear1d",
            "upsample_bilinear2d",
            "upsample_trilinear3d",
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
        )
        for overload in ("vec", "default")
    )
)
def interpolate(c: Call) -> Value | None:
    """Every mode is linear and works axis by axis, so each axis is multiplied by a table of weights."""
    x = c.value("input" if "input" in c.position else "self")
    if not x.is_float:
        return None  # rounded
    for axis in range(2, len(x.shape)):
        if not _keeps(c, x, axis):
            x = spatial.along(c.b, x, axis, _weights(c, x.shape, axis))
    return c.b.apply("identity", x) if x.producer is None or x.producer.native is not c.node else x


def _keeps(c: Call, x: Value, axis: int) -> bool:
    """Is the axis left as it is: the same size, at a scale of one?"""
    factor = _factors(c, len(x.shape))[axis - 2]
    return c.shape()[axis] == x.shape[axis] and factor in (None, 1.0)


def _factors(c: Call, rank: int) -> list[float | None]:
    """The stated scale of every spatial axis; None where only its size is stated."""
    names = ("scales",) if rank == 3 else ("scales_d", "scales_h", "scales_w")[5 - rank :]
    if "scale_factors" in c.position:
        given = c.num("scale_factors")
        return list(given) if given else [None] * (rank - 2)
    return [c.num(name) for name in names]


def _weights(c: Call, shape: tuple[int, ...], axis: int) -> Array:
    """w[i, j]: what coordinate i of the axis gives to j, by interpolating unit vectors.

    The other axes keep two coordinates each (of one, some kernels of torch take another axis).
    """
    n, size, rank = shape[axis], c.shape()[axis], len(shape)
    if n == 1:
        return np.ones((1, size))
    unit = torch.eye(n, dtype=torch.float64)
    unit = unit.reshape(1, n, *(n if a == axis else 1 for a in range(2, rank)))
    unit = unit.expand(1, n, *(n if a == axis else 2 for a in range(2, rank))).contiguous()
    sizes = [size if a == axis else 2 for a in range(2, rank)]
    factors = _factors(c, rank)
    own: dict[str, Any] = {}
    for name in c.position:
        if name in ("input", "self"):
            own[name] = unit
        elif name == "output_size":
            own[name] = None if c.args[name] is None else sizes
        elif name == "scale_factors":
            stated = c.num(name) or None
            own[name] = stated and [f if a == axis else 1.0 for a, f in enumerate(factors, 2)]
        elif name.startswith("scales"):
            index = list(c.position).index(name) - len(c.position) + rank - 2
            own[name] = factors[index] if index + 2 == axis else None
        else:
            own[name] = c.num(name)
    out = c.node.target(**own)  # type: ignore[operator]
    line = tuple(slice(None) if a == axis else 0 for a in range(2, rank))
    return np.asarray(out[(0, slice(None), *line)].numpy(), np.float64)


# -- rearrangement ---------------------------------------------------------------------------------


@aten("pixel_shuffle.default")
def pixel_shuffle(c: Call) -> Value:
    return spatial.depth_to_space(c.b, c.value("self"), c.num("upscale_factor"), outer=False)


@aten("pixel_unshuffle.default")
def pixel_unshuffle(c: Call) -> Value:
    return spatial.space_to_depth(c.b, c.value("self"), c.num("downscale_factor"), outer=False)


@aten("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(c: Call) -> Value:
    """Channels as (groups, rest) become (rest, groups); the number of groups is the operator's own."""
    x, groups = c.value("self"), c.num("groups")
    n, channels, *sizes = x.shape
    y = spatial.fixed(c.b, c.b.reshape(x, [n, groups, channels // groups, *sizes]), 1)
    y = c.b.permute(y, [0, 2, 1, *range(3, 3 + len(sizes))])
    return c.b.reshape(y, x.shape)


@aten("im2col.default")
def im2col(c: Call) -> Value | None:
    x = c.value("self")
    if len(x.shape) != 4:
        return None
    return spatial.windows(
        c.b, x, c.num("kernel_size"), c.num("stride"), c.num("padding"), c.num("dilation")
    )


@aten("unfold.default", "unfold_copy.default")
def unfold(c: Call) -> Value:
    """Windows of one axis along a new last one."""
    x, size, step = c.value("self"), c.num("size"), c.num("step")
    axis = c.num("dimension") % len(x.shape)
    places = np.arange(c.shape()[axis])[:, None] * step + np.arange(size)
    y = c.b.apply("take", spatial.fixed(c.b, x, axis), c.b.literal(places, "int64"), axis=axis)
    rank = len(y.shape)
    return c.b.permute(y, [*(a for a in range(rank) if a != axis + 1), axis + 1])
