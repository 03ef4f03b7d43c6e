"""One small model for each ONNX operator that has a lowering."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.carriers.onnx_models import node, tensor


@dataclass
class Case:
    """A model of a few nodes; ``outputs`` are compared with ONNX Runtime."""

    name: str
    nodes: list[Any]
    inputs: dict[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 20
    tolerance: float = 1e-5

    def __repr__(self) -> str:
        return self.name


X = {"x": tensor(2, 3, 4)}
POSITIVE = {"x": tensor(2, 3, 4, low=0.2)}
FLAGS = {"x": tensor(2, 3) > 0, "z": tensor(2, 3, seed=1) > 0}
IDS = np.array([[0, 2, 1], [3, 3, 0]])


def one(
    op: str,
    inputs: dict[str, Any],
    weights: dict[str, Any] | None = None,
    *,
    name: str = "",
    outputs: str = "y",
    opset: int = 20,
    order: str = "",
    domain: str = "",
    tolerance: float = 1e-5,
    **attributes: Any,
) -> Case:
    """A case of one node whose inputs are those of the model, then the weights."""
    names = order or " ".join((*inputs, *(weights or {})))
    made = node(op, names, outputs, domain, **attributes)
    return Case(name or op, [made], inputs, weights or {}, tuple(outputs.split()), opset, tolerance)


def elementwise() -> Iterator[Case]:
    for op in (
        "Abs",
        "Neg",
        "Relu",
        "Sign",
        "Tanh",
        "Sin",
        "Cos",
        "Atan",
        "Erf",
        "Exp",
        "Sigmoid",
        "Floor",
        "Ceil",
        "Identity",
        "Softplus",
        "HardSwish",
        "Elu",
        "LeakyRelu",
        "Selu",
        "HardSigmoid",
        "Softsign",
        "Gelu",
        "IsNaN",
        "Mish",
    ):
        yield one(op, X)
    yield one("Tan", X)
    yield one("Round", {"x": tensor(3, 4) * 3})
    yield one("Swish", X, opset=24)
    yield one("Swish", X, name="Swish-steep", opset=24, alpha=1.7)
    yield one("IsInf", {"x": np.array([1, np.inf, -np.inf], np.float32)})
    yield one("BitwiseNot", {"x": np.arange(-3, 4)})
    for op in ("BitwiseAnd", "BitwiseOr"):
        yield one(op, {"x": np.arange(-3, 4), "z": np.arange(7)})
    for op in ("Sqrt", "Reciprocal", "Log"):
        yield one(op, POSITIVE)
    yield one("Gelu", X, name="Gelu-tanh", approximate="tanh")
    yield one("HardSigmoid", X, name="HardSigmoid-sixth", alpha=1 / 6, beta=0.5)
    yield one("Selu", X, name="Selu-own", alpha=1.3, gamma=0.9)
    yield one("PRelu", X, {"slope": tensor(3, 1)})
    for op in (
        "Add",
        "Sub",
        "Mul",
        "Max",
        "Min",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
    ):
        yield one(op, X, {"w": tensor(3, 4, seed=1)})
    yield one("Div", X, {"w": tensor(4, seed=1, low=0.5)})
    yield one("Pow", X, {"p": np.float32(2)})
    yield one("Pow", POSITIVE, {"p": np.float32(-0.5)}, name="Pow-root")
    yield one("Mod", {"x": np.arange(-5, 7)}, {"m": np.array(3)})
    yield one("Mod", X, {"m": np.float32(0.7)}, name="Mod-fmod", fmod=1)
    yield one("Div", {"x": np.arange(-5, 7)}, {"m": np.array(3)}, name="Div-integers")
    for op in ("And", "Or", "Xor"):
        yield one(op, FLAGS)
    yield one("Not", {"x": FLAGS["x"]})
    yield one("Where", {"c": tensor(2, 3, 4, seed=3) > 0, **X}, {"w": tensor(4)})
    yield one("Sum", X, {"a": tensor(4), "b": tensor(3, 1)})
    yield one("Mean", X, {"a": tensor(4), "b": tensor(3, 1)})
    yield one("Clip", X, {"low": np.float32(-0.5), "high": np.float32(1)})
    yield one("Clip", X, {"high": np.float32(1)}, name="Clip-high", order="x - high")
    yield one("Cast", X, to=7)
    yield one("CastLike", X, {"like": np.array([1])})
    yield one("Dropout", X)
    yield one("FastGelu", X, {"b": tensor(4)}, domain="com.microsoft")
    yield one("QuickGelu", X, domain="com.microsoft")


def layout() -> Iterator[Case]:
    yield one("Reshape", X, {"s": np.array([0, -1, 2])})
    yield one("Flatten", X, axis=2)
    yield one("Flatten", X, name="Flatten-negative", axis=-1)
    yield one("Squeeze", {"x": tensor(2, 1, 3, 1)}, {"a": np.array([1])})
    yield one("Squeeze", {"x": tensor(2, 1, 3, 1)}, name="Squeeze-all")
    yield one("Unsqueeze", X, {"a": np.array([0, -1])})
    yield one("Transpose", X, perm=[2, 0, 1])
    yield one("Transpose", X, name="Transpose-reverse")
    yield one("Expand", {"x": tensor(3, 1)}, {"s": np.array([2, 1, 4])})
    yield one("Tile", X, {"r": np.array([1, 2, 3])})
    yield one("Concat", X, {"w": tensor(2, 3, 2)}, axis=-1)
    yield one("Split", X, {"s": np.array([1, 3])}, outputs="y z", axis=2)
    yield one(
        "Split", {"x": tensor(2, 5)}, name="Split-uneven", outputs="y z w", axis=-1, num_outputs=3
    )
    yield one("Split", X, name="Split-old", outputs="y z", axis=2, split=[3, 1], opset=11)
    bounds = {"s": np.array([1, -3]), "e": np.array([3, 2**62]), "a": np.array([1, 2])}
    yield one("Slice", X, {**bounds, "t": np.array([1, 2])})
    yield one(
        "Slice",
        X,
        {"s": np.array([-1]), "e": np.array([-(2**62)]), "a": np.array([1]), "t": np.array([-1])},
        name="Slice-flip",
    )
    yield one("Slice", X, name="Slice-old", starts=[1], ends=[3], axes=[2], opset=9)
    yield one("Pad", X, {"p": np.array([0, 1, 0, 0, 0, 2]), "v": np.float32(3)})
    yield one(
        "Pad", X, {"p": np.array([-1, 1]), "v": np.float32(3), "a": np.array([2])}, name="Pad-crop"
    )
    for mode in ("reflect", "edge", "wrap"):
        yield one("Pad", X, {"p": np.array([0, 1, 2, 0, 2, 1])}, name=f"Pad-{mode}", mode=mode)
    yield one("DepthToSpace", {"x": tensor(1, 8, 2, 3)}, blocksize=2)
    yield one(
        "DepthToSpace", {"x": tensor(1, 8, 2, 3)}, name="DepthToSpace-crd", blocksize=2, mode="CRD"
    )
    yield one("SpaceToDepth", {"x": tensor(1, 2, 4, 6)}, blocksize=2)
    yield Case(
        "Sequence",
        [
            node("SplitToSequence", "x s", "q", axis=2),
            node("SequenceAt", "q i", "a"),
            node("SequenceAt", "q j", "b"),
            node("SequenceConstruct", "b a", "r"),
            node("ConcatFromSequence", "r", "y", axis=2),
        ],
        X,
        {"s": np.array([1, 3]), "i": np.array(0), "j": np.array(1)},
    )
    yield Case(
        "Sequence-ones",
        [
            node("SplitToSequence", "x", "q", axis=1, keepdims=0),
            node("ConcatFromSequence", "q", "y", axis=0, new_axis=1),
        ],
        X,
    )


def contractions() -> Iterator[Case]:
    yield one("MatMul", X, {"w": tensor(4, 5)})
    yield one("MatMul", X, {"w": tensor(4)}, name="MatMul-vector")
    yield one("MatMul", {"x": tensor(2, 1, 3, 4)}, {"w": tensor(5, 4, 2)}, name="MatMul-broadcast")
    yield one(
        "Gemm",
        {"x": tensor(4, 3)},
        {"w": tensor(5, 4), "b": tensor(5)},
        transA=1,
        transB=1,
        alpha=0.5,
        beta=2.0,
    )
    yield one("Gemm", {"x": tensor(3, 4)}, {"w": tensor(4, 5)}, name="Gemm-plain")
    yield one("Einsum", X, {"w": tensor(5, 4)}, equation="bsi,oi->bso")
    yield one(
        "Einsum",
        {"x": tensor(2, 3, 4), "z": tensor(2, 5, 4)},
        name="Einsum-batch",
        equation="bqd,bkd->bqk",
    )
    yield one(
        "Einsum",
        X,
        {"w": tensor(4, 5), "v": tensor(5)},
        name="Einsum-three",
        equation="...i,ij,j->...",
    )
    yield one("Einsum", X, name="Einsum-sum", equation="abc->ca")
    yield one(
        "Einsum", {"x": tensor(3, 4)}, {"w": tensor(4, 5)}, name="Einsum-implicit", equation="ij,jk"
    )
    conv = {"x": tensor(2, 4, 7, 6)}
    yield one(
        "Conv",
        conv,
        {"w": tensor(6, 2, 3, 3), "b": tensor(6)},
        group=2,
        pads=[1, 0, 2, 1],
        strides=[2, 1],
        dilations=[1, 2],
    )
    yield one(
        "Conv",
        conv,
        {"w": tensor(3, 4, 3, 2)},
        name="Conv-same",
        auto_pad="SAME_UPPER",
        strides=[2, 2],
    )
    yield one(
        "Conv", {"x": tensor(2, 4, 9)}, {"w": tensor(4, 1, 3)}, name="Conv-depthwise", group=4
    )
    yield one("FusedMatMul", X, {"w": tensor(5, 4)}, domain="com.microsoft", transB=1, alpha=0.25)


def spatial() -> Iterator[Case]:
    image = {"x": tensor(1, 2, 4, 5)}
    twice = {"s": np.array([1, 1, 2, 2], np.float32)}
    for mode in ("nearest", "linear", "cubic"):
        yield one("Resize", image, twice, name=f"Resize-{mode}", order="x - s", mode=mode)
    sizes = {"s": np.array([1, 2, 7, 3])}
    yield one("Resize", image, sizes, name="Resize-sizes", order="x - - s", mode="linear")
    yield one(
        "Resize",
        image,
        {"s": np.array([9, 10])},
        name="Resize-corners",
        order="x - - s",
        mode="linear",
        axes=[2, 3],
        coordinate_transformation_mode="align_corners",
    )
    yield one(
        "Resize",
        image,
        twice,
        name="Resize-floor",
        order="x - s",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    yield one("Upsample", image, twice, opset=9)
    kernel = {"w": tensor(2, 3, 3, 2), "b": tensor(3)}
    yield one("ConvTranspose", image, kernel, strides=[2, 3], pads=[1, 0, 0, 1])
    yield one(
        "ConvTranspose",
        image,
        {"w": tensor(2, 2, 3, 3)},
        name="ConvTranspose-groups",
        group=2,
        dilations=[1, 2],
        strides=[2, 1],
        output_padding=[1, 0],
    )


def norms() -> Iterator[Case]:
    gain = {"g": tensor(4, low=0.5), "b": tensor(4, seed=2)}
    yield one("LayerNormalization", X, gain, epsilon=1e-3)
    yield one("LayerNormalization", X, {"g": tensor(3, 4)}, name="LayerNormalization-two", axis=1)
    yield one(
        "LayerNormalization",
        X,
        gain,
        name="LayerNormalization-statistics",
        outputs="y m s",
        epsilon=1e-3,
    )
    yield one("RMSNormalization", X, {"g": gain["g"]}, opset=23, epsilon=1e-3)
    yield one("SimplifiedLayerNormalization", X, {"g": gain["g"]}, epsilon=1e-3)
    yield one(
        "SkipLayerNormalization",
        {**X, "z": tensor(2, 3, 4, seed=5)},
        gain,
        domain="com.microsoft",
        epsilon=1e-3,
    )
    yield one(
        "SkipSimplifiedLayerNormalization",
        {**X, "z": tensor(2, 3, 4, seed=5)},
        {"g": gain["g"]},
        domain="com.microsoft",
        epsilon=1e-3,
    )
    image = {"x": tensor(2, 4, 3, 5)}
    running = {"m": tensor(4, seed=3), "v": tensor(4, low=0.5)}
    yield one("BatchNormalization", image, {**gain, **running})
    yield one("InstanceNormalization", image, gain)
    yield one("GroupNormalization", image, gain, opset=21, num_groups=2, tolerance=1e-4)
    yield one("LpNormalization", X, axis=1)
    yield one("MeanVarianceNormalization", image, tolerance=1e-4)
    yield one("Softmax", X, axis=1)
    yield one("LogSoftmax", X)
    yield one("Softmax", X, name="Softmax-old", axis=1, opset=11)
    yield Case(
        "Layer norm spelled out",
        [
            node("ReduceMean", "x a", "m"),
            node("Sub", "x m", "d"),
            node("Pow", "d p", "q"),
            node("ReduceMean", "q a", "v"),
            node("Add", "v e", "t"),
            node("Sqrt", "t", "r"),
            node("Div", "d r", "n"),
            node("Mul", "n g", "k"),
            node("Add", "k b", "y"),
        ],
        X,
        {**gain, "a": np.array([-1]), "p": np.float32(2), "e": np.float32(1e-3)},
    )


def attention() -> Iterator[Case]:
    q, k, v = (tensor(2, 4, 5, 6), tensor(2, 2, 7, 6, seed=1), tensor(2, 2, 7, 3, seed=2))
    whole = {"q": q, "k": k, "v": v}
    yield one("Attention", whole, opset=23)
    yield one("Attention", whole, {"m": tensor(5, 7)}, name="Attention-mask", opset=23, scale=0.3)
    yield one("Attention", whole, {"m": tensor(5, 7) > -1}, name="Attention-bool", opset=23)
    yield one("Attention", whole, name="Attention-causal", opset=23, is_causal=1)
    yield one("Attention", whole, name="Attention-cap", opset=23, softcap=1.5)
    flat = {"q": tensor(2, 5, 24), "k": tensor(2, 7, 12, seed=1), "v": tensor(2, 7, 6, seed=2)}
    yield one("Attention", flat, name="Attention-flat", opset=23, q_num_heads=4, kv_num_heads=2)
    past = {"pk": tensor(2, 2, 3, 6, seed=3), "pv": tensor(2, 2, 3, 3, seed=4)}
    yield one(
        "Attention",
        {**whole, **past},
        name="Attention-past",
        opset=23,
        outputs="y k2 v2",
        order="q k v - pk pv",
    )
    angles = {"c": tensor(1, 5, 3), "s": tensor(1, 5, 3, seed=1)}
    x = {"x": tensor(1, 4, 5, 6)}
    yield one("RotaryEmbedding", x, angles, opset=23)
    yield one(
        "RotaryEmbedding", x, angles, name="RotaryEmbedding-interleaved", opset=23, interleaved=1
    )
    yield one(
        "RotaryEmbedding",
        {"x": tensor(1, 4, 5, 8)},
        angles,
        name="RotaryEmbedding-part",
        opset=23,
        rotary_embedding_dim=6,
    )
    tables = {"c": tensor(9, 3), "s": tensor(9, 3, seed=1)}
    yield one(
        "RotaryEmbedding",
        {"x": tensor(2, 5, 24)},
        {**tables, "i": np.tile(np.arange(2, 7), (2, 1))},
        name="RotaryEmbedding-positions",
        opset=23,
        num_heads=4,
    )


def indices() -> Iterator[Case]:
    table = {"w": tensor(5, 4)}
    yield one("Gather", {"i": IDS}, table, order="w i")
    yield one("Gather", X, {"i": np.array(-1)}, name="Gather-one", axis=1)
    yield one("Gather", X, {"i": np.array([[2, 0]])}, name="Gather-table", axis=1)
    yield one("Gather", X, {"i": np.arange(4).reshape(2, 2)}, name="Gather-all", axis=2)
    yield one("GatherElements", X, {"i": np.array([[[0, -1, 2, 1]]] * 2)}, axis=1)
    yield one("GatherND", X, {"i": np.array([[0, 1], [1, -1]])})
    yield one("GatherND", X, {"i": np.array([[-1]])}, name="GatherND-one")
    yield one("GatherND", {"x": tensor(4, 4), "i": IDS[:, :2]}, name="GatherND-data")
    places = {"i": np.array([[[0, -1, 2, 1]]] * 2), "u": tensor(2, 1, 4, seed=4)}
    yield one("ScatterElements", X, places, axis=1)
    yield one("ScatterElements", X, places, name="ScatterElements-add", axis=1, reduction="add")
    same = {"i": np.full((2, 1, 4), -2), "u": tensor(2, 1, 4, seed=4)}
    yield one("ScatterElements", X, same, name="ScatterElements-one", axis=1)
    one_place = {"i": np.array([[-1], [0], [-1]]), "u": tensor(3, 3, 4, seed=4)}
    yield one("ScatterND", X, one_place, name="ScatterND-add", reduction="add")
    two = {"i": np.array([[0, 1], [1, -1]]), "u": tensor(2, 4, seed=4)}
    yield one("ScatterND", X, two)
    yield one("ScatterND", {**X, "i": IDS[:, :2] % 2}, {"u": tensor(2, 4)}, name="ScatterND-data")
    yield one("OneHot", {"i": IDS}, {"d": np.array(4), "v": np.array([0.5, 2], np.float32)}, axis=1)
    yield one("TopK", X, {"k": np.array([2])}, outputs="y i", axis=1)
    yield one("TopK", X, {"k": np.array([3])}, name="TopK-least", outputs="y i", largest=0)
    for reverse in (0, 1):
        yield one(
            "CumSum",
            X,
            {"a": np.array(1)},
            name=f"CumSum-{reverse}",
            reverse=reverse,
            exclusive=reverse,
        )
    yield one("Trilu", X, {"k": np.array(1)})
    yield one("Trilu", X, name="Trilu-low", upper=0)
    yield Case(
        "EyeLike",
        [node("EyeLike", "c", "e", k=1, dtype=1), node("Add", "x e", "y")],
        {"x": tensor(2, 3, 4)},
        {"c": np.zeros((3, 4), np.int64)},
    )
    yield Case(
        "Sizes",
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Range", "o n t", "r"),
            node("Cast", "r", "f", to=1),
            node("Add", "x f", "y"),
        ],
        X,
        {"i": np.array(2), "o": np.array(0), "t": np.array(1)},
    )
    yield Case(
        "Constants",
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "s", "z"),
            node("Size", "x", "n"),
            node("Cast", "n", "f", to=1),
            node("Add", "x z", "a"),
            node("Mul", "a f", "y"),
        ],
        X,
    )
    yield Case(
        "Unknown constants",
        [
            node("NonZero", "c", "n"),
            node("Gather", "n i", "r"),
            node("Gather", "x r", "y", axis=2),
        ],
        X,
        {"c": np.array([False, True, False, True]), "i": np.array(0)},
    )


def reductions() -> Iterator[Case]:
    for op in (
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
    ):
        yield one(op, X, {"a": np.array([1])}, keepdims=0)
    yield one("ReduceLogSum", POSITIVE, {"a": np.array([-1])})
    yield one("ReduceMean", X, name="ReduceMean-all")
    yield one("ReduceSum", X, name="ReduceSum-none", noop_with_empty_axes=1)
    yield one("ReduceMean", X, name="ReduceMean-old", axes=[1, 2], opset=13)
    yield one("ArgMax", X, axis=1)
    yield one("ArgMin", X, axis=-1, keepdims=0)
    image = {"x": tensor(2, 3, 7, 6)}
    yield one("GlobalAveragePool", image)
    yield one("GlobalMaxPool", image)
    yield one("MaxPool", image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    yield one("AveragePool", image, kernel_shape=[3, 2], strides=[2, 1])
    yield one("AveragePool", image, name="AveragePool-pads", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    yield one(
        "AveragePool",
        image,
        name="AveragePool-counted",
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    )
    for op in ("AveragePool", "MaxPool"):
        up = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
        yield one(op, {"x": tensor(1, 2, 5, 7)}, name=f"{op}-up", **up)


CASES = [
    *elementwise(),
    *layout(),
    *contractions(),
    *spatial(),
    *norms(),
    *attention(),
    *indices(),
    *reductions(),
]
