"""What a picture shows is what the model is."""

import pytest
import torch
from torch import nn

import meristem
from meristem.pages.drawing import MOST_ROWS, draw
from meristem.pages.growth import Growth
from meristem.pages.parts import Part, Size, Tower, find_picture
from tests.zoo import decoders, encoders, vision


def picture(model, before=None):
    growth = Growth(model.plan, before.dimensions if before else ())
    return find_picture(
        model.graph, model.equations, model.stacks.values(), model.dimensions, growth
    )


def towers(found):
    return [row for row in found.rows if isinstance(row, Tower)]


def titles(model):
    """Titles of the rows; those of a stack's parts in a list."""
    return [
        row.title if isinstance(row, Part) else [p.title for v in row.variants for p in v.parts]
        for row in picture(model).rows
    ]


def zoo(room, name):
    entry = next(e for e in room.ENTRIES if e.name == name)
    torch.manual_seed(0)
    args, kwargs = entry.inputs(2, 12)
    return meristem.trace(entry.build().eval(), args, kwargs, None)


def test_a_decoder(model):
    found = picture(model)
    assert titles(model) == ["embedding", ["attention", "MLP"], "norm", "linear"]
    assert found.reads == [{-1}, {0}, {1}, {2}]
    (tower,) = towers(found)
    assert (tower.place, tower.new, tower.stream) == (
        "blocks",
        (False, False),
        (Size("hidden", 16, 16),),
    )
    attention, mlp = tower.variants[0].parts
    assert attention.place == "blocks.*.attention"
    sizes = {s.kind: s.after for s in attention.sizes}
    assert sizes == {"heads": 4, "kv_heads": 2, "group": 2, "qk_dim": 6, "value_dim": 5}
    assert [str(s.kind) for s in mlp.sizes] == ["mlp"]
    # gate, up and down of 16 x 20, and the norm's gain
    assert mlp.parameters == 3 * 16 * 20 + 16


def test_what_grew_is_marked_where_blocks_moved_up(model, grown):
    """New blocks stand before and behind the first one: old ones have other numbers now."""
    (tower,) = towers(picture(grown, before=model))
    assert tower.new == (True, False, True, False)
    assert tower.before == 2
    (variant,) = tower.variants
    assert variant.numbers == (0, 1, 2, 3)
    attention, mlp = variant.parts
    assert mlp.sizes == (Size("mlp", 40, 20),)
    assert mlp.grew
    assert {s.kind for s in attention.sizes if s.grew} == {"heads", "group"}


def test_without_the_source_sizes_before_come_from_the_plan(model):
    grown = meristem.grow(model, {"mlp": 40})
    (tower,) = towers(picture(grown))
    assert tower.variants[0].parts[1].sizes == (Size("mlp", 40, 20),)


@pytest.mark.full
@pytest.mark.parametrize(
    ("room", "name", "expected"),
    [
        (decoders, "gptj", ["embedding", ["attention, MLP"], "norm", "linear"]),
        (
            decoders, "mixtral",
            ["embedding", ["attention", "mixture of experts"], "norm", "linear"],
        ),
        (
            encoders, "whisper",
            ["convolution", "embedding", ["attention", "MLP"], "norm", "embedding",
             ["attention", "attention", "MLP"], "norm", "linear"],
        ),
        (vision, "resnet", ["convolution", ["convolution"], "convolution", "linear"]),
    ],
)  # fmt: skip
def test_families(room, name, expected):
    assert titles(zoo(room, name)) == expected


class Unlike(nn.Module):
    """Blocks of two sizes, and an outer link over all of them."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.ups = nn.ModuleList(nn.Linear(8, n) for n in (12, 12, 20))
        self.downs = nn.ModuleList(nn.Linear(n, 8) for n in (12, 12, 20))
        self.leave = nn.Linear(16, 3)

    def forward(self, x):
        first = x = self.enter(x)
        for up, down in zip(self.ups, self.downs, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.leave(torch.cat([x, first], -1))


def test_blocks_of_different_sizes_are_told_apart():
    model = meristem.trace(Unlike(), (torch.randn(2, 5),), None, None)
    found = picture(model)
    kinds = {
        tuple(s.after for s in v.parts[0].sizes): len(v.numbers)
        for t in towers(found)
        for v in t.variants
    }
    assert kinds == {(12,): 2, (20,): 1}
    drawn = draw(found)
    assert any("reads enter too" in line for line in drawn.words), drawn.words


class Deep(nn.Module):
    """Layers that nothing repeats, more than a picture has rows."""

    def __init__(self):
        super().__init__()
        make = [m for i in range(MOST_ROWS) for m in (nn.Linear(4 + i, 5 + i), nn.LayerNorm(5 + i))]
        self.layers = nn.Sequential(*make)

    def forward(self, x):
        return self.layers(x)


def test_rows_that_are_not_drawn_are_counted():
    model = meristem.trace(Deep(), (torch.randn(2, 4),), None, None)
    drawn = draw(picture(model))
    assert f"and {MOST_ROWS} rows more, which are not drawn" in drawn.words
    inside = [s for s in drawn.shapes if s.what == "rect"]
    assert all(s.x >= 0 and s.x + s.w <= drawn.width for s in inside)
    assert all(s.y >= 0 and s.y + s.h <= drawn.height for s in inside)
