"""ATen operators that become several operators of the vocabulary: tiny modules around each."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.rules.op_table import Forward, Op, Torch


def line(f: Forward) -> Forward:
    """The features of h[2, 3, 6] as channels of a line of three."""
    return lambda h, *w: f(h.transpose(1, 2), *w).transpose(1, 2)


def image(f: Forward) -> Forward:
    """The features of h[2, 3, 6] as channels of images of 3 x 4."""

    def forward(h: Torch, *w: Torch) -> Torch:
        x = h.transpose(1, 2).unsqueeze(3) * torch.tensor([1.0, -0.4, 2.0, 0.3])
        return f(x, *w).flatten(2).transpose(1, 2)

    return forward


def volume(f: Forward) -> Forward:
    """The features of h[2, 3, 6] as channels of volumes of 3 x 4 x 2."""
    return image(lambda x, *w: f(torch.stack([x, torch.tanh(x)], -1), *w).flatten(3))


def resized(how: Forward, **options: object) -> Forward:
    return how(lambda x: F.interpolate(x, **options))


def replaced(h: Torch) -> Torch:
    """Rows that are set, by a constant and by each other."""
    y = h + 0
    y[:, torch.tensor([2, 0])] = F.relu(h[:, :2])
    y[torch.tensor([0, 1]), torch.tensor([1, -1])] = 0.5
    y[y > 1] = 0.0
    return y


def bags(h: Torch, table: Torch, mode: str) -> Torch:
    ids = torch.tensor([[0, 4, 4], [2, 1, 0], [3, 3, 3]])
    return h * F.embedding_bag(ids, table, mode=mode)


def by_statistics(x: Torch, mean: Torch, var: Torch) -> Torch:
    return F.instance_norm(x, mean.detach(), (var**2 + 0.5).detach(), use_input_stats=False)


LOWERED: dict[str, Op] = {
    "addcmul": Op(lambda h, w: torch.addcmul(h, h.tanh(), w, value=0.3), weights=((6,),)),
    "outer": Op(lambda h, w: h * torch.outer(torch.tensor([1.0, -0.4, 2.0]), w), weights=((6,),)),
    "addcdiv": Op(lambda h: torch.addcdiv(h, h.tanh(), h.exp(), value=0.3)),
    "threshold": Op(lambda h: F.threshold(h, 0.1, 0.0) + F.threshold(h, 0.2, -0.5)),
    "rrelu": Op(F.rrelu),
    "log_sigmoid": Op(F.logsigmoid),
    "relu6": Op(lambda h: F.relu6(9 * h)),
    "hardtanh": Op(lambda h: F.hardtanh(h, -0.3, 0.6)),
    "celu": Op(lambda h: F.celu(h, 0.7) + F.celu(h)),
    "max": Op(lambda h: h - h.max(1, keepdim=True)[0] + h.gather(1, h.min(1, keepdim=True)[1])),
    "unfold": Op(lambda h: h.unfold(1, 2, 1).relu().mean(3)),
    # interpolation
    "upsample_nearest1d": Op(resized(line, scale_factor=1.7)),
    "upsample_nearest2d": Op(resized(image, size=(5, 3))),
    "upsample_nearest3d": Op(resized(volume, scale_factor=(2, 1, 1.5))),
    "_upsample_nearest_exact1d": Op(resized(line, size=5, mode="nearest-exact")),
    "_upsample_nearest_exact2d": Op(resized(image, size=(7, 3), mode="nearest-exact")),
    "_upsample_nearest_exact3d": Op(resized(volume, size=(2, 5, 3), mode="nearest-exact")),
    "upsample_linear1d": Op(resized(line, scale_factor=2.3, mode="linear")),
    "upsample_bilinear2d": Op(resized(image, size=(5, 4), mode="bilinear", align_corners=True)),
    "upsample_linear1d, size and scale": Op(
        line(lambda x: torch.ops.aten.upsample_linear1d(x, [5], False, 1.7))
    ),
    "upsample_trilinear3d, sizes and scales": Op(
        volume(lambda x: torch.ops.aten.upsample_trilinear3d(x, [3, 6, 3], False, None, 1.6, 1.5))
    ),
    "upsample_trilinear3d": Op(resized(volume, scale_factor=(1, 2, 0.6), mode="trilinear")),
    "upsample_bicubic2d": Op(resized(image, scale_factor=(1.5, 2), mode="bicubic")),
    "_upsample_bilinear2d_aa": Op(resized(image, size=(2, 3), mode="bilinear", antialias=True)),
    "_upsample_bicubic2d_aa": Op(resized(image, size=(2, 3), mode="bicubic", antialias=True)),
    # pooling
    "adaptive_avg_pool1d": Op(line(lambda x: F.adaptive_avg_pool1d(x, 2))),
    "adaptive_avg_pool2d": Op(image(lambda x: F.adaptive_avg_pool2d(x, (2, 3)))),
    "adaptive_avg_pool2d, dividing": Op(image(lambda x: F.adaptive_avg_pool2d(x, (3, 2)))),
    "adaptive_avg_pool3d": Op(volume(lambda x: F.adaptive_avg_pool3d(x, (2, 5, 1)))),
    "adaptive_max_pool1d": Op(line(lambda x: F.adaptive_max_pool1d(x, 1))),
    "adaptive_max_pool2d": Op(image(lambda x: F.adaptive_max_pool2d(x, (3, 2)))),
    "adaptive_max_pool2d, not dividing": Op(
        image(lambda x: F.adaptive_max_pool2d(x, (2, 2))), pins="has no semantics"
    ),
    "max_pool2d, with its places": Op(
        image(lambda x: sum(F.max_pool2d(x, 2, return_indices=True))), pins="has no semantics"
    ),
    "avg_pool2d, rounded up": Op(
        image(lambda x: F.avg_pool2d(x, (2, 3), (2, 3), (0, 1), ceil_mode=True))
    ),
    "avg_pool3d": Op(volume(lambda x: F.avg_pool3d(x, (2, 2, 1), 1, (1, 0, 0)))),
    "max_pool3d": Op(volume(lambda x: F.max_pool3d(x, 2, 1))),
    # channels and places
    "pixel_shuffle": Op(
        image(lambda x, w: F.pixel_shuffle(F.conv2d(x, w), 2)), 3, weights=((12, 6, 1, 1),)
    ),
    "pixel_unshuffle": Op(
        image(lambda x, w: F.pixel_unshuffle(F.conv2d(x, w)[:, :, :2], 2)), 12,
        weights=((3, 6, 1, 1),),
    ),
    "channel_shuffle": Op(line(lambda x: F.relu(F.channel_shuffle(x, 2)))),
    "im2col": Op(
        image(lambda x: F.unfold(x, (2, 3), dilation=(2, 1), padding=1, stride=(1, 2))), 36
    ),
    # contractions
    "conv_transpose1d": Op(
        line(lambda x, w, v: F.conv_transpose1d(x, w, v, stride=2, padding=1)), 7,
        weights=((6, 7, 3), (7,)),
    ),
    "conv_transpose2d": Op(
        image(lambda x, w: F.conv_transpose2d(
            x, w, None, stride=(2, 3), padding=(1, 0), output_padding=(1, 0), groups=2
        )), 8, weights=((6, 4, 3, 2),),
    ),
    "conv_transpose2d, each channel alone": Op(
        image(lambda x, w: F.conv_transpose2d(x, w, dilation=2, groups=6)), weights=((6, 1, 2, 2),)
    ),
    "conv_transpose3d": Op(
        volume(lambda x, w: F.conv_transpose3d(x, w, stride=2)), 7, weights=((6, 7, 2, 1, 2),)
    ),
    "convolution": Op(
        line(lambda x, w: torch.convolution(x, w, None, [2], [1], [1], True, [1], 1)), 7,
        weights=((6, 7, 4),),
    ),
    "bilinear": Op(
        lambda h, w, v: F.bilinear(h, F.relu(h), w, v), 7, weights=((7, 6, 6), (7,))
    ),
    # norms
    "instance_norm": Op(line(lambda x, w, v: F.instance_norm(x, None, None, w, v)),
                        weights=((6,), (6,))),
    "instance_norm, plain": Op(image(F.instance_norm)),
    "instance_norm, kept statistics": Op(
        line(by_statistics),
        weights=((6,), (6,)),
    ),
    "weight_norm": Op(
        lambda h, v, g: F.linear(h, torch._weight_norm(v, g, 0)), 7, weights=((7, 6), (7, 1))
    ),
    "weight_norm, of columns": Op(
        lambda h, v, g: F.linear(h, torch._weight_norm(v, g, 1)), 7, weights=((7, 6), (1, 6))
    ),
    "weight_norm, as a whole": Op(
        lambda h, v, g: F.linear(h, torch._weight_norm(v, g, -1)), 7, weights=((7, 6), ())
    ),
    # reading and writing
    "embedding_bag, sum": Op(lambda h, w: bags(h, w, "sum"), weights=((5, 6),)),
    "embedding_bag, mean": Op(lambda h, w: bags(h, w, "mean"), weights=((5, 6),)),
    "index_put": Op(replaced),
    "index_copy": Op(lambda h: h.index_copy(1, torch.tensor([1, 0]), h[:, 1:].relu())),
    "index_fill": Op(lambda h: h.index_fill(1, torch.tensor([1]), 2.0)),
    "scatter": Op(lambda h: h.scatter(1, h.argmax(1, keepdim=True), h[:, :2].relu())),
    "scatter, a number": Op(lambda h: h.scatter(1, h.argmax(1, keepdim=True), 0.5)),
    "scatter_add": Op(lambda h: h.scatter_add(1, h.topk(2, 1)[1], h.relu())),
}  # fmt: skip
