"""Inputs that verification draws by itself."""

import numpy as np
import pytest

from meristem.verify.inputs import STYLES, choose_sizes, draw
from meristem.verify.signature import Field, fields
from tests.verify.models import mixer, traced


def test_ranges_follow_arithmetic_to_the_table():
    tokens, mask = fields(mixer().graph)
    assert (tokens.use, tokens.low, tokens.high) == ("index", -1, 9)  # tokens + 1 reads 11 rows
    assert mask.use == "mask"


def test_ids_that_are_also_compared_are_indices():
    ids, mask = fields(traced("roberta").graph)
    assert (ids.use, ids.low) == ("index", 0)
    assert mask.use == "mask"


def test_floats_of_images():
    (pixels,) = fields(traced("vit").graph)
    assert pixels.use == "float"
    assert pixels.shape[1:] == (3, 12, 12)


@pytest.mark.parametrize("style", ["random", *STYLES])
def test_samples_respect_their_fields(style):
    found = [
        Field("i", "int64", ("b", 5), (2, 5), "index", 2, 6),
        Field("m", "bool", ("b", 5), (2, 5), "mask"),
        Field("x", "float16", ("b", "2*b"), (2, 4), "float"),
    ]
    one, two = (draw(found, {"b": 3}, style, seed=4) for _ in range(2))
    for f in found:
        assert np.array_equal(one.arrays[f.name], two.arrays[f.name])
        assert one.arrays[f.name].dtype == np.dtype(f.dtype)
    assert one.arrays["i"].min() >= 2
    assert one.arrays["i"].max() <= 6
    assert one.arrays["m"][:, 0].all()
    assert one.arrays["x"].shape == (3, 6)


def test_bfloat16_values_are_exact():
    sample = draw([Field("x", "bfloat16", (64,), (64,), "float")], {}, "random")
    assert not np.any(sample.arrays["x"].view(np.uint32) & 0xFFFF)


def test_two_coprime_sizes():
    found = [Field("i", "int64", ("b", "s"), (2, 7), "index", 0, 4)]
    sizes = choose_sizes(found, {"s": (2, 12)}, lambda _: "")
    first, second = sizes.chosen
    assert all(np.gcd(first[k], second[k]) == 1 for k in first)
    assert max(first["s"], second["s"]) <= 12
    assert not sizes.notes


def test_sizes_fall_back_and_say_so():
    found = [Field("i", "int64", ("b", "s"), (2, 7), "index", 0, 4)]

    def runs(sample):
        return "" if sample.sizes["s"] == 7 else "the length is 7"

    sizes = choose_sizes(found, {}, runs)
    assert [s["s"] for s in sizes.chosen] == [7, 7]
    assert sizes.chosen[0]["b"] != sizes.chosen[1]["b"]
    assert sizes.notes == ["only the first axes vary (the length is 7)"]


def test_no_valid_size_is_said():
    found = [Field("x", "float32", ("b",), (2,), "float")]
    sizes = choose_sizes(found, {}, lambda _: "never")
    assert not sizes.chosen
    assert "never" in sizes.notes[0]
