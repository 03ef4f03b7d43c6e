"""The axis algebra: unification, cuts, alignment, and growth of terms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.rewrite.axes import (
    Conflict,
    Pin,
    Term,
    align,
    atoms_of,
    cat,
    cut,
    factors_of,
    find,
    pin,
    prod,
    spread_pins,
    terms_of,
    unify,
)
from meristem.rewrite.blocks import Growth
from meristem.rewrite.lift import Lift
from meristem.rewrite.script import lift

calm = settings(deadline=None, derandomize=True, max_examples=150)


def sizes(parts):
    return [p.size for p in parts]


def test_an_atom_takes_the_structure_of_its_partner():
    a, heads, width = Term(12), Term(3), Term(4)
    unify(a, prod([heads, width]))
    assert sizes(factors_of(a)) == [3, 4]
    assert find(factors_of(a)[0]) is heads


def test_products_refine_each_other():
    a, b = Term(2), Term(6)
    left = prod([a, b])
    right = prod([Term(4), Term(3)])
    unify(left, right)
    assert sizes(factors_of(left)) == sizes(factors_of(right)) == [2, 2, 3]
    assert [find(x) for x in factors_of(left)] == [find(x) for x in factors_of(right)]


def test_concatenations_are_cut_to_a_common_refinement():
    left, right = cat([Term(2), Term(5)]), cat([Term(4), Term(3)])
    unify(left, right)
    assert sizes(terms_of(left)) == sizes(terms_of(right)) == [2, 2, 3]


def test_a_concatenation_of_products_shares_the_inner_factor():
    d = Term(4)
    whole = cat([prod([Term(3), d]), prod([Term(2), d])])
    heads = Term(5)
    unify(whole, prod([heads, Term(4)]))
    assert sizes(terms_of(heads)) == [3, 2]


def test_a_leading_concatenation_distributes():
    t = prod([cat([Term(2), Term(3)]), Term(4)])
    assert sizes(terms_of(t)) == [8, 12]


def test_a_cut_inside_a_product():
    t = prod([Term(3), Term(4)])
    a, b = cut(t, 8)
    assert (a.size, b.size) == (8, 4)
    c, d = cut(a, 6)  # inside the second row
    assert (c.size, d.size) == (6, 2)


def test_what_does_not_align_is_a_conflict():
    with pytest.raises(Conflict):
        align([Term(4), Term(9)], [Term(6), Term(6)])
    with pytest.raises(Conflict):
        unify(Term(3), Term(4))


def test_axes_of_one_never_tie():
    a, b = Term(1), Term(1)
    unify(a, b)
    assert find(a) is not find(b)
    assert prod([a, Term(5)]).size == 5


def test_pins_reach_every_atom_below():
    a, b = Term(2), Term(3)
    t = prod([a, b])
    pin(t, Pin("a reason"))
    spread_pins([t])
    assert [p.reason for p in a.pins] == [p.reason for p in b.pins] == ["a reason"]


def test_pins_survive_binding():
    a = Term(6)
    pin(a, Pin("a reason"))
    parts = [Term(2), Term(3)]
    unify(a, prod(parts))
    spread_pins([a])
    assert all(p.pins for p in parts)


# -- properties ---------------------------------------------------------------------------------------


@st.composite
def terms(draw, depth=3, room=24):
    """A random term of at most ``room`` coordinates."""
    if depth == 0 or room < 4 or draw(st.integers(0, 2)) == 0:
        return Term(draw(st.integers(1, max(1, min(5, room)))))
    first = draw(terms(depth=depth - 1, room=room // 2))
    if draw(st.booleans()):
        return prod([first, draw(terms(depth=depth - 1, room=room // max(1, first.size)))])
    return cat([first, draw(terms(depth=depth - 1, room=room - first.size))])


def compositions(draw, n):
    """A random concatenation of atoms of total size n."""
    out = []
    while n:
        out.append(draw(st.integers(1, n)))
        n -= out[-1]
    return out


@calm
@given(st.data())
def test_random_concatenations_have_a_common_refinement(data):
    n = data.draw(st.integers(2, 30))
    one, two = (compositions(data.draw, n) for _ in range(2))
    left, right = cat([Term(k) for k in one]), cat([Term(k) for k in two])
    unify(left, right)
    cuts = sorted({*np.cumsum(one).tolist(), *np.cumsum(two).tolist()})
    wanted = np.diff([0, *cuts]).tolist()
    assert sizes(terms_of(left)) == sizes(terms_of(right)) == wanted
    ties = zip(terms_of(left), terms_of(right), strict=True)
    assert all(find(a) is find(b) for a, b in ties if a.size > 1)


@calm
@given(st.data())
def test_random_products_have_a_common_refinement(data):
    """Both groupings of one list of factors solve to that list."""
    primes = data.draw(st.lists(st.sampled_from([2, 3, 5, 7]), min_size=2, max_size=6))

    def grouped():
        out, left = [], list(primes)
        while left:
            k = data.draw(st.integers(1, len(left)))
            out.append(int(np.prod(left[:k])))
            left = left[k:]
        return [Term(n) for n in out]

    one, two = grouped(), grouped()
    align(list(one), list(two))
    left = [f for t in one for f in factors_of(t)]
    right = [f for t in two for f in factors_of(t)]
    assert sizes(left) == sizes(right)
    assert [find(a) for a in left] == [find(b) for b in right]


@calm
@given(st.data())
def test_a_cut_keeps_order_and_size(data):
    t = data.draw(terms())
    if t.size < 2:
        return
    at = data.draw(st.integers(1, t.size - 1))
    a, b = cut(t, at)
    assert (a.size, b.size) == (at, t.size - at)


@calm
@given(st.data())
def test_coordinates_blocks_and_lifts_agree(data):
    """Every new coordinate once, old ones in order, blocks as large as they say; in every form."""
    t = data.draw(terms())
    atoms = [a for a in dict.fromkeys(atoms_of(t)) if a.size > 1]
    chosen = {a: a.size + data.draw(st.integers(1, 3)) for a in atoms if data.draw(st.booleans())}
    growth = Growth(chosen)
    source, block = growth.coordinates(t)
    assert len(source) == len(block) == growth.size(t)
    assert source[source >= 0].tolist() == list(range(t.size))
    blocks = growth.blocks(t)
    assert np.bincount(block, minlength=len(blocks)).tolist() == [b.size for b in blocks]
    assert all(
        (source[block == i] < 0).all() == b.fresh or not b.size for i, b in enumerate(blocks)
    )
    for i, b in enumerate(blocks):
        assert np.all((source[block == i] < 0) == b.fresh)
    full = Lift(lift(t, growth).term)
    assert full.size == growth.size(t)
    assert full.old_size == t.size
    assert full.coordinates()[0].tolist() == source.tolist()
    assert full.coordinates()[1].tolist() == block.tolist()
    assert [int(np.prod([n for n, _ in d])) for d in full.blocks()] == [b.size for b in blocks]
    assert growth.appends(t) == (source[: t.size].tolist() == list(range(t.size)))


@calm
@given(st.data())
def test_blocks_survive_regrouping(data):
    """Lexicographic order: reshape acts on blocks exactly as on coordinates."""
    a, b, c = (Term(data.draw(st.integers(2, 4))) for _ in range(3))
    growth = Growth({a: a.size + 1, c: c.size + 2})
    joint, _ = growth.coordinates(prod([a, b, c]))
    rows, _ = growth.coordinates(prod([a, b]))
    columns, _ = growth.coordinates(c)
    outer = np.where(
        (rows[:, None] < 0) | (columns[None] < 0), -1, rows[:, None] * c.size + columns[None]
    )
    assert joint.tolist() == outer.ravel().tolist()
    assert len(growth.blocks(prod([a, b, c]))) == len(growth.blocks(prod([a, b]))) * 2
