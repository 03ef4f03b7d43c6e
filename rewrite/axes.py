"""The axis algebra: every tensor axis is a term over atoms, and operators equate terms.

A term is an ``Atom`` of some size, a row-major ``Prod`` (mixed radix: ``heads * head_dim``) or a
``Cat`` (concatenation: ``q + k + v``). Unification refines both sides to a common structure, so a
reshape that splits an axis in two *discovers* its factors everywhere the axis goes. Every binding
removes a root and every cut strictly shrinks sizes: solving ends, in near-linear time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pin:
    """Why an axis cannot grow. ``boundary`` pins are those that a boundary policy may lift, ``choice`` pins
    those that copies of all experts do."""

    reason: str
    boundary: bool = False
    opaque: bool = False
    choice: bool = False


class Term:
    """A node of the axis algebra: an atom until something binds it to structure."""

    __slots__ = ("kind", "link", "parts", "pins", "size")

    def __init__(self, size: int, kind: str = "atom", parts: tuple[Term, ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.parts = parts
        self.link: Term | None = None
        self.pins: list[Pin] = []

    def __repr__(self) -> str:
        t = find(self)
        if t.kind == "atom":
            return f"{t.size}#{id(t) % 9973}"
        joint = "*" if t.kind == "prod" else "+"
        return "(" + joint.join(map(repr, t.parts)) + ")"


class Conflict(Exception):
    """Two terms have no common refinement; carries what is left unmatched."""

    def __init__(self, left: Sequence[Term], right: Sequence[Term]) -> None:
        super().__init__(f"{list(left)} does not align with {list(right)}")
        self.left, self.right = tuple(left), tuple(right)


def find(t: Term) -> Term:
    """The representative of ``t``, with path compression."""
    root = t
    while root.link is not None:
        root = root.link
    while t.link is not None and t.link is not root:
        t.link, t = root, t.link
    return root


def prod(factors: Iterable[Term]) -> Term:
    """Row-major product; factors of size one vanish."""
    flat = [f for t in factors for f in factors_of(t)]
    if not flat:
        return Term(1)
    if len(flat) == 1:
        return flat[0]
    size = 1
    for f in flat:
        size *= f.size
    return Term(size, "prod", tuple(flat))


def cat(summands: Iterable[Term]) -> Term:
    """Concatenation; empty pieces vanish."""
    flat = [t for s in summands for t in _flat_cat(s) if t.size > 0]
    if len(flat) == 1:
        return flat[0]
    return Term(sum(t.size for t in flat), "cat", tuple(flat))


def _flat_cat(t: Term) -> Iterator[Term]:
    t = find(t)
    if t.kind == "cat":
        for p in t.parts:
            yield from _flat_cat(p)
    else:
        yield t


def factors_of(t: Term) -> list[Term]:
    """Flattened factors of a product, ones dropped; ``[t]`` for an atom or a concatenation."""
    t = find(t)
    if t.size == 1 and t.kind != "cat":
        return []
    if t.kind != "prod":
        return [t]
    return [f for p in t.parts for f in factors_of(p)]


def terms_of(t: Term) -> list[Term]:
    """Flattened summands; a leading concatenation distributes: (a+b)*R = a*R + b*R."""
    t = find(t)
    if t.kind == "cat":
        return [s for p in t.parts for s in terms_of(p)]
    if t.kind == "prod":
        first, *rest = factors_of(t)
        if first.kind == "cat":
            return [s for p in terms_of(first) for s in terms_of(prod([p, *rest]))]
    return [t]


def pin(t: Term, why: Pin) -> None:
    """Forbid growth of everything below ``t``."""
    t = find(t)
    if why not in t.pins:
        t.pins.append(why)


def _bind(atom: Term, to: Term) -> None:
    to = find(to)
    if atom is to:
        return
    atom.link = to
    for why in atom.pins:
        pin(to, why)


def cut(t: Term, at: int) -> tuple[Term, Term]:
    """Split ``t`` at offset ``at`` into two pieces, refining atoms where the offset falls."""
    t = find(t)
    if at <= 0 or at >= t.size:
        raise ValueError(f"cut at {at} outside (0, {t.size})")
    pieces = terms_of(t)
    if len(pieces) > 1:
        left: list[Term] = []
        for i, piece in enumerate(pieces):
            if at == 0:
                return cat(left), cat(pieces[i:])
            if piece.size <= at:
                left.append(piece)
                at -= piece.size
            else:
                a, b = cut(piece, at)
                return cat([*left, a]), cat([b, *pieces[i + 1 :]])
        raise AssertionError("unreachable: the offset lies inside the term")
    t = pieces[0]
    if t.kind == "atom":
        a, b = Term(at), Term(t.size - at)
        _bind(t, cat([a, b]))
        return a, b
    first, *rest = factors_of(t)
    inner = prod(rest)
    whole, part = divmod(at, inner.size)
    if part == 0:
        a, b = cut(first, whole)
        return prod([a, *rest]), prod([b, *rest])
    pieces3 = [Term(whole), Term(1), Term(first.size - whole - 1)]
    unify(first, cat(pieces3))
    a, b = cut(inner, part)
    before = prod([pieces3[0], inner]) if whole else None
    after = prod([pieces3[2], inner]) if pieces3[2].size else None
    return cat([x for x in (before, a) if x]), cat([x for x in (b, after) if x])


def unify(a: Term, b: Term) -> None:
    """Make two terms of equal size one, refining both; raises Conflict where they do not align."""
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise Conflict([a], [b])
    if a.size == 1 and a.kind == b.kind == "atom":
        return  # an axis of one is a broadcast, it never ties
    if a.kind == "atom":
        _bind(a, b)
    elif b.kind == "atom":
        _bind(b, a)
    elif a.kind == "prod" and b.kind == "prod":
        _unify_products(a, b)
    else:
        _unify_sums(a, b)


def _unify_sums(a: Term, b: Term) -> None:
    """At least one side is a concatenation: walk both, cutting the longer piece."""
    for one, other in ((a, b), (b, a)):
        if one.kind == "cat" and other.kind == "prod" and len(terms_of(other)) == 1:
            if _group(one, other):
                return
            break
    left, right = terms_of(a), terms_of(b)
    left.reverse()
    right.reverse()
    while left:
        x, y = left.pop(), right.pop()
        if x.size > y.size:
            x, more = cut(x, y.size)
            left.extend(reversed(terms_of(more)))
        elif y.size > x.size:
            y, more = cut(y, x.size)
            right.extend(reversed(terms_of(more)))
        _unify_piece(x, y)
    _merge(a, b)


def _unify_piece(x: Term, y: Term) -> None:
    x, y = find(x), find(y)
    if len(terms_of(x)) == 1 and len(terms_of(y)) == 1 and x.kind == "cat":
        x = terms_of(x)[0]
    unify(x, y)


def _merge(a: Term, b: Term) -> None:
    """Both sides are now structurally equal: let one stand for both."""
    a, b = find(a), find(b)
    if a is not b:
        for why in a.pins:
            pin(b, why)
        a.link = b


def _group(sums: Term, product: Term) -> bool:
    """Cat ~ Prod(A, R): group the summands into multiples of |R| and make A their Cat."""
    first, *rest = factors_of(product)
    inner = prod(rest)
    groups: list[list[Term]] = [[]]
    filled = 0
    for piece in terms_of(sums):
        groups[-1].append(piece)
        filled += piece.size
        if filled % inner.size == 0:
            groups.append([])
    groups.pop()
    if len(groups) < 2:
        return False
    counts = [Term(sum(p.size for p in g) // inner.size) for g in groups]
    unify(first, cat(counts))
    for count, group in zip(counts, groups, strict=True):
        unify(prod([count, *rest]), cat(group))
    _merge(sums, product)
    return True


def split_factor(t: Term, inner: int) -> bool:
    """Refine ``t`` into ``(|t| // inner) * inner``; False where a piece does not divide."""
    t = find(t)
    if t.kind == "atom":
        _bind(t, prod([Term(t.size // inner), Term(inner)]))
        return True
    pieces = terms_of(t)
    if any(p.size % inner for p in pieces):
        return False
    shared = Term(inner)
    try:
        unify(t, prod([cat([Term(p.size // inner) for p in pieces]), shared]))
    except Conflict:
        return False
    return True


def _unify_products(a: Term, b: Term) -> None:
    align(factors_of(a), factors_of(b))
    _merge(a, b)


def align(left: list[Term], right: list[Term]) -> None:
    """Match two row-major factor lists of equal total size, refining where one side is coarser."""
    left, right = list(left), list(right)
    stuck = False
    while left and right:
        end = 0 if stuck else -1
        x, y = find(left[end]), find(right[end])
        if x.size == y.size:
            left.pop(end)
            right.pop(end)
            unify(x, y)
            continue
        big, small, side = (x, y, left) if x.size > y.size else (y, x, right)
        if big.size % small.size == 0 and _refine(big, small.size, from_left=stuck):
            side[end : end + 1 or None] = factors_of(big)
            continue
        if stuck:
            raise Conflict(left, right)
        stuck = True
    if any(f.size > 1 for f in (*left, *right)):
        raise Conflict(left, right)


def _refine(big: Term, small: int, *, from_left: bool) -> bool:
    inner = big.size // small if from_left else small
    return split_factor(big, inner) and find(big).kind == "prod"


def atoms_of(t: Term) -> Iterator[Term]:
    """Root atoms below ``t``, in order, with repetitions, sizes of one included."""
    t = find(t)
    if t.kind == "atom":
        yield t
    else:
        for p in t.parts:
            yield from atoms_of(p)


def spread_pins(roots: Iterable[Term]) -> None:
    """Push the pins of composite terms down to their atoms."""
    seen: set[int] = set()

    def visit(t: Term) -> None:
        t = find(t)
        if id(t) in seen and not t.pins:
            return
        seen.add(id(t))
        if t.kind == "atom":
            return
        pins, t.pins = t.pins, []
        for p in t.parts:
            for why in pins:
                pin(p, why)
            visit(p)

    for root in roots:
        visit(root)
