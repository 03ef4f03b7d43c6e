"""The runs that are compared, as data: what a run starts from, what it grows to, and when.

Every run ends as the same large model, at the learning rate that was tuned for training it from scratch. A
length is a share of the scratch run's steps. Runs under a constant rate stop when they have spent what the
scratch run spent; runs under WSD (warm-up, stable, decay) take as many steps as the scratch run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from growing.decoder import Shape


@dataclass(frozen=True)
class Size:
    """A setting of the whole benchmark; ``steps`` is the length of the scratch run.

    ``rates`` is where tuning begins: while the best is at an edge, the grid goes on by a factor of 2.
    """

    shape: Shape
    batch: int
    steps: int
    warm_up: int
    marks: int
    checks: int
    rates: tuple[float, ...]
    device: str = "cpu"
    bfloat16: bool = False


SIZES = {
    # 1.4 million parameters; about two minutes of one core for each run.
    "1m": Size(
        Shape(hidden=96, heads=4, mlp=256, layers=12, context=128, head=24),
        batch=4, steps=600, warm_up=20, marks=30, checks=40, rates=(1e-3, 2e-3, 4e-3),
    ),
    # For one GPU. Its numbers are not in this repository: it has not been run.
    "124m": Size(
        Shape(hidden=768, heads=12, mlp=3456, layers=12, context=1024, head=64),
        batch=64, steps=20_000, warm_up=500, marks=100, checks=64,
        rates=(3e-4, 6e-4, 1.2e-3), device="cuda", bfloat16=True,
    ),
    # Shows in seconds that everything works; nothing can be learned from its numbers.
    "smoke": Size(
        Shape(hidden=16, heads=4, mlp=24, layers=12, context=16, head=4),
        batch=2, steps=20, warm_up=2, marks=10, checks=2, rates=(2e-3, 4e-3),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Grow (unless ``sizes`` is empty), then train for ``share`` of the scratch run's steps, or to the end.

    ``optimizer``: "fresh" (a new AdamW and a warm-up), or what ``grown.optimizer(old, new=...)`` takes.
    """

    share: float | None
    sizes: tuple[str, ...] = ()
    method: str = "preserve"
    optimizer: str = "fresh"

    def target(self, shape: Shape) -> dict[str, int]:
        """``"layers=6"`` as it is; a bare kind grows to its size in the large model."""
        out = {}
        for name in self.sizes:
            kind, _, size = name.partition("=")
            out[kind] = int(size) if size else getattr(shape, kind)
        return out


@dataclass(frozen=True)
class Row:
    """One kind of run. ``against`` is the row whose final loss is to be reached."""

    name: str
    title: str
    stages: tuple[Stage, ...]
    layers: int = 12
    half: bool = False
    wsd: bool = False
    against: str = "scratch"

    def start(self, size: Size) -> Shape:
        shape = size.shape.narrow() if self.half else size.shape
        return shape.shallow(self.layers)


# Under WSD the last part of all steps decays to zero.
DECAY = 0.1
EARLY, MIDDLE = 0.25, 0.5
WIDTH = ("hidden", "heads", "mlp")


def depth(method: str, optimizer: str = "fresh", early: float = EARLY) -> tuple[Stage, ...]:
    return Stage(early), Stage(None, ("layers",), method, optimizer)


def width(method: str, optimizer: str = "fresh") -> tuple[Stage, ...]:
    return Stage(MIDDLE), Stage(None, WIDTH, method, optimizer)


def late(share: float, method: str = "stack") -> tuple[Stage, ...]:
    return Stage(share), Stage(None, ("layers",), method)


ROWS = {
    row.name: row
    for row in (
        Row("scratch", "from scratch", (Stage(1 - DECAY), Stage(None))),
        Row("stack-4", "depth 3 to 12, `stack`", depth("stack"), layers=3),
        Row("stack-2", "depth 6 to 12, `stack`", depth("stack"), layers=6),
        Row("identity-4", "depth 3 to 12, `identity`", depth("identity"), layers=3),
        Row(
            "midas", "depth 3, 6, 9, 12, `stack:order=middle` (MIDAS, PROP-1)",
            (
                Stage(0.1),
                Stage(0.2, ("layers=6",), "stack:order=middle"),
                Stage(0.3, ("layers=9",), "stack:order=middle"),
                Stage(None, ("layers",), "stack:order=middle"),
            ),
            layers=3,
        ),
        Row("width-preserve", "half width to full, `preserve`", width("preserve"), half=True),
        Row("width-lemon", "half width to full, `lemon`", width("lemon"), half=True),
        Row(
            "width-asymmetric", "half width to full, `lemon`, AdamW's state carried, asymmetric reset",
            width("lemon", "asymmetric"), half=True,
        ),
        # The paper's case: equal copies, which the same state would keep equal.
        Row(
            "width-copies", "half width to full, `copy`, AdamW's state carried, asymmetric reset",
            width("copy", "asymmetric"), half=True,
        ),
        Row(
            "compound", "half width and 6 layers to all at once, `lemon+stack`",
            (Stage(MIDDLE), Stage(None, (*WIDTH, "layers"), "lemon+stack")),
            layers=6, half=True,
        ),
        Row(
            "scratch-wsd", "from scratch, WSD", (Stage(1 - DECAY), Stage(None)),
            wsd=True, against="scratch-wsd",
        ),
        Row(
            "late-60", "depth 2 to 12 at 60% of the steps, `stack`, WSD", late(0.6),
            layers=2, wsd=True, against="scratch-wsd",
        ),
        Row(
            "late-80", "depth 2 to 12 at 80% of the steps, `stack`, WSD", late(0.8),
            layers=2, wsd=True, against="scratch-wsd",
        ),
        Row(
            "identity-4-carried", "depth 3 to 12, `identity`, AdamW's state carried",
            depth("identity", "mean"), layers=3,
        ),
        Row("identity-2", "depth 6 to 12, `identity`", depth("identity"), layers=6),
    )
}  # fmt: skip


def config(size: str, row: Row, rate: float, seed: int, corpus: str) -> dict[str, Any]:
    """All that a run depends on, as it is stored with it."""
    setting = asdict(SIZES[size])
    setting.pop("rates")
    return {
        "size": size, "row": row.name, "rate": rate, "seed": seed, "corpus": corpus,
        "setting": setting, "layers": row.layers, "half": row.half, "wsd": row.wsd, "decay": DECAY,
        "stages": [asdict(stage) for stage in row.stages],
    }  # fmt: skip
