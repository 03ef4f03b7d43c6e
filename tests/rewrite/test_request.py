"""Selectors: a kind, a kind at a place with wildcards, a full name; the more specific one wins."""

import numpy as np
import pytest

from meristem.rewrite.dimensions import Dimension
from meristem.rewrite.errors import PinnedDimension, SelectorError, SizeError
from meristem.rewrite.request import by_name, check_target, resolve, wanted


def dimension(name, size=8, pinned=None, boundary=False):
    kind, _, place = name.partition("#")[0].partition("@")
    return Dimension(name, kind, size, place, (), pinned, boundary)


MODEL = [
    dimension("channels"),
    dimension("channels#2"),
    dimension("channels@stem"),
    dimension("mlp@blocks.0.mlp"),
    dimension("mlp@blocks.1.mlp"),
    dimension("width@head", pinned="it is an axis of the output y", boundary=True),
]


def grown(sizes, **options):
    return {w.dimension.name: w.target for w in resolve(MODEL, sizes, **options)}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"mlp": 9}, {"mlp@blocks.0.mlp": 9, "mlp@blocks.1.mlp": 9}),
        ({"mlp@blocks.1.*": 9}, {"mlp@blocks.1.mlp": 9}),
        ({"mlp": 9, "mlp@blocks.1.*": 10}, {"mlp@blocks.0.mlp": 9, "mlp@blocks.1.mlp": 10}),
        ({"mlp@*": 9, "mlp@blocks.0.mlp": 10}, {"mlp@blocks.0.mlp": 10, "mlp@blocks.1.mlp": 9}),
        ({"channels": 9}, {"channels": 9, "channels#2": 9, "channels@stem": 9}),
        ({"channels@": 9}, {"channels": 9}),
        ({"channels#2": 9}, {"channels#2": 9}),
        ({"channels": 9, "channels@": 10}, {"channels": 10, "channels#2": 9, "channels@stem": 9}),
    ],
)
def test_what_a_selector_names(sizes, expected):
    assert grown(sizes) == expected


@pytest.mark.parametrize("d", MODEL, ids=lambda d: d.name)
def test_every_dimension_can_be_named_alone(d):
    assert list(grown({by_name(d.name): 9}, boundary="grow")) == [d.name]


@pytest.mark.parametrize(("target", "size", "expected"), [
    ("%8", 20, 24), ("%8", 24, 24), ("%64", 65, 128), (" %5 ", 1, 5), ("%1", 7, 7),
])  # fmt: skip
def test_the_next_multiple(target, size, expected):
    check_target("mlp", target)
    assert wanted(target, size) == (expected, False)


def test_numbers_of_numpy_are_sizes():
    assert grown({"mlp": np.int64(9)}) == {"mlp@blocks.0.mlp": 9, "mlp@blocks.1.mlp": 9}


def test_what_is_no_mapping():
    with pytest.raises(SizeError, match="mapping"):
        resolve(MODEL, [("mlp", 9)])


def test_nothing_matches():
    with pytest.raises(SelectorError, match=r"'mpl' names no kind of dimension; nearest: mlp"):
        resolve(MODEL, {"mpl": 9})
    with pytest.raises(SelectorError, match="mlp@blocks"):
        resolve(MODEL, {"mlp@block.7": 9})


def test_equal_selectors_that_disagree():
    with pytest.raises(SelectorError, match="equally specific"):
        resolve(MODEL, {"mlp@blocks.*": 9, "mlp@*.mlp": 10})


def test_a_request_is_atomic_and_names_the_rest():
    with pytest.raises(PinnedDimension, match="'channels@'") as caught:
        resolve(MODEL, {"width": 9, "channels@": 9})
    assert caught.value.rest == ["channels@"]
    assert list(grown({"width": 9}, boundary="crop")) == ["width@head"]


@pytest.mark.parametrize("target", [10**30, f"+{10**30}", f"x{10**400}", f"%{10**30}"])
def test_sizes_beyond_all_memory(target):
    with pytest.raises(SizeError, match="does not fit into memory; ask for a smaller one"):
        resolve(MODEL, {"mlp": target})


@pytest.mark.parametrize("target", ["x", "9.5", "-1", "%0", "%", "%-8", 1.5, True, None])
def test_what_is_no_size(target):
    with pytest.raises(SizeError, match="is not a size"):
        resolve(MODEL, {"mlp": target})
