"""Heads: grouped queries are solved together, and groups stay whole."""

import pytest

from meristem.rewrite.axes import find
from meristem.rewrite.errors import SizeError
from tests.passes.cases import LIMIT, grouped, grow_and_measure, reached, sizes_of, solve, wish


@pytest.mark.parametrize(("target", "size"), [(4, 4), (5, 5), ("+2", 6), ("x1.5", 6)])
def test_plain_heads_take_any_number(target, size):
    assert reached("heads", 4, target) == size


@pytest.mark.parametrize(
    ("request_", "kv", "group"),
    [
        ({"heads": 6}, 2, 3),
        ({"heads": "x1.3"}, 2, 3),  # 5.2 is rounded to whole groups
        ({"heads": "x1.1"}, 2, 2),
        ({"heads": 4}, 2, 2),
        ({"kv_heads": 3}, 3, 2),  # heads follow, the group stays
        ({"group": 5}, 2, 5),
        ({"heads": 9, "kv_heads": 3}, 3, 3),
        ({"heads": 4, "kv_heads": 3}, 3, 2),  # heads as they are: they follow
        ({"kv_heads": 4, "group": 3}, 4, 3),
        ({"heads": 12, "kv_heads": 4, "group": 3}, 4, 3),
        ({"heads": "+4", "kv_heads": "+2"}, 4, 2),
    ],
)
def test_grouped_queries_are_solved_together(request_, kv, group):
    dimensions = dict(zip(("heads", "kv_heads", "group"), grouped(2, 2), strict=True))
    atoms, sizes = solve(*(wish(dimensions[k], t) for k, t in request_.items()))
    a, b = (find(dimensions[k].term) for k in ("kv_heads", "group"))
    assert (atoms.get(a, 2), atoms.get(b, 2)) == (kv, group)
    expected = {"heads": kv * group, "kv_heads": kv, "group": group}
    assert sizes == {f"{k}@here": expected[k] for k in request_}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"heads": 5}, "2 key-value heads must divide it.*possible near it: 4, 6; or set kv_heads"),
        ({"heads": "+1"}, "possible near it: 4, 6"),
        ({"heads": 8, "kv_heads": 3}, "3 key-value heads must divide it.*: 6, 9"),
        ({"heads": 6, "kv_heads": 6}, "needs groups of 1, which are 2 today"),
        ({"heads": 6, "group": 4}, "needs groups of 3, which are 2 today and asked otherwise"),
        ({"heads": 3}, "is 4 today and cannot become 3; give at least 4"),
        ({"kv_heads": 1}, "is 2 today and cannot become 1; give at least 2"),
    ],
)
def test_what_groups_cannot_express_is_refused(request_, message):
    dimensions = dict(zip(("heads", "kv_heads", "group"), grouped(2, 2), strict=True))
    with pytest.raises(SizeError, match=message):
        solve(*(wish(dimensions[k], t) for k, t in request_.items()))


def test_heads_grow():
    grown, error = grow_and_measure("gpt2", {"heads": "+2"})
    assert error <= LIMIT
    assert sizes_of(grown, "heads") == {6}


@pytest.mark.parametrize(
    ("request_", "heads", "kv", "group"),
    [
        ({"heads": "+2"}, 6, 2, 3),
        ({"kv_heads": 3}, 6, 3, 2),
        ({"heads": 9, "kv_heads": 3}, 9, 3, 3),
    ],
)
def test_grouped_queries_grow(request_, heads, kv, group):
    grown, error = grow_and_measure("llama", request_)
    assert error <= LIMIT
    assert sizes_of(grown, "heads") == {heads}
    assert sizes_of(grown, "kv_heads") == {kv}
    assert sizes_of(grown, "group") == {group}
