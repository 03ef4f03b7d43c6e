"""Larger images: the program is that of the same class for them, tables are interpolated over the grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meristem
from meristem.rewrite.errors import NotPreserved, PinnedDimension, SelectorError, SizeError
from meristem.rewrite.resizing import linear, matrix, nearest, resized
from tests.e2e.measure import leaves, session
from tests.e2e.test_torch_zoo import traced
from tests.passes.cases import LIMIT
from tests.zoo import build

WIDTH, PATCH = 8, 4


class Tiny(nn.Module):
    """A vision transformer of one block for images of ``size``; ``how`` is a variant of it."""

    def __init__(self, size: tuple[int, int], how: str = "class token") -> None:
        super().__init__()
        self.how, self.grid = how, (size[0] // PATCH, size[1] // PATCH)
        places = self.grid[0] * self.grid[1]
        own = int(how == "class token")
        if how == "reshaped":
            self.patch = nn.Linear(3 * PATCH * PATCH, WIDTH)
        elif how == "overlapping":
            self.patch = nn.Conv2d(3, WIDTH, 2 * PATCH - 1, PATCH, PATCH - 1)
        else:
            self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH)) if own else None
        if how == "numbered":
            self.table = nn.Embedding(places, WIDTH)
            self.register_buffer("ids", torch.arange(places).expand(1, -1))
        else:
            self.places = nn.Parameter(torch.randn(1, own + places, WIDTH))
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        flat = {"mixed": places, "windows": 4}.get(how, 1)
        self.mix = nn.Linear(flat, flat) if flat > 1 else None
        self.head = nn.Linear(WIDTH, 5)

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        h, w = self.grid
        if self.how == "reshaped":
            cut = image.reshape(len(image), 3, h, PATCH, w, PATCH).permute(0, 2, 4, 1, 3, 5)
            return self.patch(cut.reshape(len(image), h * w, -1))
        x = self.patch(image)
        if self.how == "resampled":  # to the size that it has
            x = F.interpolate(x, size=self.grid, mode="bilinear")
        if self.how == "windows":  # two by two places are next to each other
            x = x.reshape(len(image), WIDTH, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5)
        return x.flatten(2).transpose(1, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.tokens(image)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + (self.table(self.ids) if self.how == "numbered" else self.places)
        if self.how == "scaled":
            x = x * self.places
        if self.how == "mixed":
            x = x + self.mix(x.transpose(1, 2)).transpose(1, 2)
        y = self.norm(x)
        x = x + torch.softmax(self.q(y) @ self.k(y).transpose(1, 2) / WIDTH**0.5, -1) @ self.v(y)
        if self.how == "summed":
            return self.head(x.sum(1))
        if self.how == "last":
            return self.head(x[:, -1])
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


class Crossed(nn.Module):
    """One table of positions for both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.table = nn.Parameter(torch.randn(4, WIDTH))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).permute(0, 2, 3, 1) + self.table[:, None] + self.table[None]
        return torch.relu(x).mean((1, 2))


def tiny(size: tuple[int, int] = (16, 12), how: str = "class token") -> tuple[Any, nn.Module]:
    torch.manual_seed(3)
    module = Tiny(size, how).eval()
    return meristem.trace(module, (torch.randn(2, 3, *size),)), module


def grown_by_torch(table: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> Any:
    """A table [1, own + h * w, c] with its grid interpolated by torch."""
    own = table.shape[1] - old[0] * old[1]
    grid = table[:, own:].reshape(1, *old, -1).permute(0, 3, 1, 2).double()
    grid = F.interpolate(grid, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :own].double(), grid.flatten(2).transpose(1, 2)], 1)


def runs(path: Any, *inputs: torch.Tensor) -> np.ndarray:
    runtime = session(path)
    names = [i.name for i in runtime.get_inputs()]
    return runtime.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0]


# -- what it does ----------------------------------------------------------------------------------


MADE = ("class token", "mean", "reshaped", "numbered")
SIZES = {"image@image.height": 24, "image@image.width": 20}
FULL = pytest.mark.full


@pytest.mark.parametrize("how", ["class token", *(pytest.param(h, marks=FULL) for h in MADE[1:])])
def test_the_grown_program_is_the_class_for_larger_images(how):
    model, module = tiny((16, 12), how)
    grown = meristem.grow(model, SIZES, method="interpolate")
    assert [(c.before, c.after) for c in grown.plan.changes] == [(16, 24), (12, 20)]
    assert "the old function is not defined" in grown.plan.approximate[0]
    larger = Tiny((24, 20), how).eval()
    state = grown.state_dict()
    larger.load_state_dict(state)
    image = torch.randn(2, 3, 24, 20)
    with torch.no_grad():
        want = larger(image)
        torch.testing.assert_close(grown.module()(image), want)
        torch.testing.assert_close(grown.exported_program.module()(image), want)
    if how == "numbered":
        assert torch.equal(state["ids"], torch.arange(30)[None])
    name = "table.weight" if how == "numbered" else "places"
    old, new = (m[name].reshape(1, -1, WIDTH) for m in (module.state_dict(), state))
    expected = grown_by_torch(old, (4, 3), (6, 5))
    torch.testing.assert_close(new.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("how", ["numbered", *(pytest.param(h, marks=FULL) for h in MADE[:3])])
def test_files_of_grown_models_and_grown_files(how, tmp_path):
    model, _ = tiny((16, 12), how)
    plan = meristem.plan(model, SIZES, method="interpolate")
    grown = meristem.grow(model, plan)
    file = meristem.load(model.save(tmp_path / "old.onnx"))
    again = meristem.grow(file, meristem.Plan.from_json(plan.to_json()))
    image = torch.randn(2, 3, 24, 20)
    with torch.no_grad():
        want = grown.module()(image)
    for m in (grown, again):
        got = runs(m.save(tmp_path / "new.onnx"), image)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_one_side_grows_alone_and_kinds_name_both():
    model, _ = tiny((16, 12))
    assert all(d.kind != "image" for d in model.dimensions)
    wide = meristem.grow(model, {"image@image.width": "+8"}, method="interpolate")
    assert wide.module()(torch.randn(2, 3, 16, 20)).shape == (2, 5)
    both = meristem.grow(model, {"image": "x2"}, method="interpolate")
    assert {c.place: c.after for c in both.plan.changes} == {"image.height": 32, "image.width": 24}
    again = meristem.grow(both, {"image": 36}, method="interpolate")
    assert again.module()(torch.randn(2, 3, 36, 36)).shape == (2, 5)
    same = meristem.grow(model, {"image@image.width": 12}, method="interpolate")
    assert not same.plan.changes
    # Other growth follows in a step of its own, and is exact.
    wider = meristem.grow(both, {"value_dim": 12})
    image = torch.randn(2, 3, 32, 24)
    torch.testing.assert_close(wider.module()(image), both.module()(image), atol=1e-5, rtol=1e-4)


def test_verification_says_what_it_checks_and_catches_a_wrong_table():
    model, _ = tiny((12, 12), "mean")
    grown = meristem.grow(model, {"image": 16}, method="interpolate")
    report = meristem.verify(model, grown, runtime="torch")
    words = {n: v.word for n, v in report.levels.items()}
    assert words == {
        "algebra": "approximate",
        "deployment": "noise-floor",
        "training": "noise-floor",
    }
    assert "interpolated to the new size" in report.levels["algebra"].reason
    with torch.no_grad():
        grown.carrier.tensors["places"][0, 3, 2] += 1e-3
    wrong = meristem.verify(model, grown, runtime="torch")
    assert wrong.levels["algebra"].word == "differs"


@pytest.mark.full
def test_constant_images_with_a_constant_table_keep_their_outputs():
    _, module = tiny((12, 12), "mean")
    with torch.no_grad():
        module.places.copy_(module.places[:, :1].expand_as(module.places))
    even = meristem.trace(module, (torch.randn(2, 3, 12, 12),))
    larger = meristem.grow(even, {"image": 24}, method="interpolate").module()
    colour = torch.randn(2, 3, 1, 1)
    with torch.no_grad():
        small = module(colour.expand(2, 3, 12, 12))
        torch.testing.assert_close(larger(colour.expand(2, 3, 24, 24)), small)


def test_a_real_class_with_a_larger_image_size_and_the_grown_weights():
    model, _, _ = traced("vit")
    grown = meristem.grow(model, {"image": 20}, method="interpolate")
    module, _, _ = build("vit")
    larger = type(module)(type(module.config)(**{**module.config.to_dict(), "image_size": 20}))
    larger.load_state_dict(grown.state_dict())
    images = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        want = larger.eval()(pixel_values=images).logits
        torch.testing.assert_close(leaves(grown.module()(pixel_values=images))[0], want)


@pytest.mark.full
@pytest.mark.parametrize("name", ["vit", "timm_vit", "clip"])
def test_real_classes_are_verified_through_both_carriers(name, tmp_path):
    model, _, _ = traced(name)
    grown = meristem.grow(model, {"image": 20}, method="interpolate")
    file = meristem.load(model.save(tmp_path / "old.onnx"))
    for old, new in ((model, grown), (file, meristem.grow(file, grown.plan))):
        levels = meristem.verify(old, new).levels
        assert levels["algebra"].word == "approximate"
        assert levels["deployment"].word == "noise-floor"


# -- what it refuses -------------------------------------------------------------------------------


REFUSED = {
    "overlapping": "slides over it",
    "mixed": "holds numbers for each place",
    "windows": "lies over the patches in another order",
}
MORE = {
    "scaled": "holds numbers for each place",
    "summed": "more places would make the sum larger",
    "last": "a part of the grid by itself",
}


@pytest.mark.parametrize(
    "how",
    [*REFUSED, *(pytest.param(h, marks=FULL) for h in MORE)],
)
def test_what_would_not_be_the_same_class_is_refused(how):
    model, _ = tiny((16, 16), how)
    with pytest.raises(PinnedDimension, match=(REFUSED | MORE)[how]):
        meristem.grow(model, {"image": 32}, method="interpolate")


def test_a_size_that_an_operator_states_by_itself_is_found():
    model, _ = tiny((16, 16), "resampled")
    with pytest.raises(NotPreserved, match="states a size of its own"):
        meristem.plan(model, {"image": 32}, method="interpolate")


@pytest.mark.full
@pytest.mark.parametrize(("name", "why"), [("swin", "roll"), ("resnet", "slides")])
def test_real_classes_that_are_refused(name, why):
    model, _, _ = traced(name)
    with pytest.raises(PinnedDimension, match=why):
        meristem.grow(model, {"image": "x2"}, method="interpolate")


@pytest.mark.full
def test_sides_that_vary_already_stay_as_they_are():
    module = nn.Sequential(nn.Conv2d(3, 4, PATCH, PATCH), nn.GELU(), nn.Conv2d(4, 5, 1)).eval()
    side = PATCH * torch.export.Dim("h", min=2, max=9)
    model = meristem.trace(module, (torch.randn(2, 3, 12, 16),), dynamic_shapes=({2: side},))
    with pytest.raises(PinnedDimension, match="varies already"):
        meristem.grow(model, {"image@*.height": 24}, method="interpolate")
    grown = meristem.grow(model, {"image@*.width": 24}, method="interpolate").module()
    image = torch.randn(2, 3, 20, 24)
    torch.testing.assert_close(grown(image), module(image))


def test_requests_that_cannot_be():
    model, _ = tiny((16, 12))

    def ask(sizes: Any, **options: Any) -> None:
        meristem.grow(model, sizes, **{"method": "interpolate", **options})

    with pytest.raises(SizeError, match=r"read in patches of 4; possible near it: 28, 32"):
        ask({"image@image.height": 30})
    with pytest.raises(SizeError, match="cannot become 14"):
        ask({"image": 14})
    with pytest.raises(SizeError, match="a larger image is an input"):
        ask({"image": 20}, boundary="crop")
    with pytest.raises(SizeError, match="given= names places"):
        ask({"image": 20}, given={"places": "mean"})
    with pytest.raises(SelectorError, match=r"grow with method=\"interpolate\" alone"):
        ask({"image": 20}, method="preserve")
    text = meristem.trace(nn.Linear(3, 4).eval(), (torch.randn(2, 3),))
    with pytest.raises(SelectorError, match="read by convolutions or in patches"):
        meristem.grow(text, {"image": 20}, method="interpolate")


def test_sides_that_are_one_axis_grow_together():
    model = meristem.trace(Crossed().eval(), (torch.randn(2, 3, 16, 16),))
    sizes = {"image@image.height": 24, "image@image.width": 16}
    with pytest.raises(SizeError, match="would become 24 instead of 16"):
        meristem.plan(model, sizes, method="interpolate")
    with pytest.raises(SizeError, match="asks for another size"):
        meristem.plan(model, sizes | {"image@image.width": 20}, method="interpolate")
    plan = meristem.plan(model, {"image@*.height": 24}, method="interpolate")
    assert [c.after for c in plan.changes] == [24, 24]


# -- formulas --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(3, 3), (3, 4), (4, 11), (1, 3), (2, 4)])
def test_interpolation_is_torchs(old, new):
    x = torch.randn(2, 5, old, dtype=torch.float64)
    want = F.interpolate(x, size=new, mode="linear", align_corners=False)
    got = resized(x.numpy(), 2, linear(old, new))
    assert np.abs(got - want.numpy()).max() <= LIMIT


def test_terms_interpolate_side_by_side_and_keep_what_stands_beside():
    term = ("cat", ("atom", 1, 1), ("prod", ("atom", 3, 5), ("atom", 2, 4)))
    x = np.random.default_rng(0).standard_normal((7, 2))
    got = resized(x, 0, matrix(term))
    want = grown_by_torch(torch.from_numpy(x)[None], (3, 2), (5, 4))[0]
    assert np.abs(got - want.numpy()).max() <= LIMIT
    assert nearest(("atom", 3, 6)).tolist() == [1, 3, 5]
    assert nearest(term).tolist()[0] == 0
    assert len(set(nearest(term))) == 7
