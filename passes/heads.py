"""Number of attention heads (arXiv:2308.06103 section 3.2), with grouped queries.

New heads may hold anything; their rows of the output projection are zero. With grouped queries a query
head h reads the key-value head h // group, so new query heads are inserted inside their group and new
key-value heads bring whole groups. ``heads`` is KV x G and solves for the group; with ``kv_heads`` in
the same request both are solved; ``kv_heads`` alone keeps the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meristem.passes.base import Atoms, WidthPass, refuse_shrinking
from meristem.rewrite.axes import Term, find
from meristem.rewrite.errors import SizeError
from meristem.rewrite.request import Wish, exact, wanted


@dataclass(frozen=True)
class Heads(WidthPass):
    """Heads, key-value heads and groups of one attention are solved together."""

    def solve(
        self, wishes: Sequence[Wish], *, lifted: bool = False
    ) -> tuple[Atoms, dict[str, int]]:
        single = {find(w.dimension.term): w for w in wishes if not w.dimension.inner}
        atoms: Atoms = {}
        reached: dict[str, int] = {}
        done: set[Term] = set()
        for w in wishes:
            if not w.dimension.inner:
                continue
            kv, group = (find(t) for t in w.dimension.inner)
            heads, inner = self._joint(w, kv, group, single.get(kv), single.get(group))
            done |= {kv, group}
            atoms |= inner
            reached[w.dimension.name] = heads
            for t in (kv, group):
                if t in single:
                    reached[single[t].dimension.name] = inner.get(t, t.size)
        rest = [w for t, w in single.items() if t not in done]
        more, sizes = super().solve(rest, lifted=lifted)
        return {**atoms, **more}, {**reached, **sizes}

    def _joint(
        self, heads: Wish, kv: Term, group: Term, kv_wish: Wish | None, group_wish: Wish | None
    ) -> tuple[int, Atoms]:
        """Sizes of KV and G with KV * G = heads."""
        d = heads.dimension
        kv_size = self._wanted(kv_wish, kv)
        size, rounded = wanted(heads.target, d.size)
        if kv_wish is not None and size == d.size:
            size = kv_size * group.size  # heads as they are, scaled by their key-value heads
        if rounded:
            size = max(round(exact(heads.target, d.size) / kv_size) * kv_size, kv_size * group.size)
        refuse_shrinking(d, size)
        if size % kv_size:
            low = size // kv_size * kv_size
            raise SizeError(
                f"{d.name} cannot be {size}: {kv_size} key-value heads must divide it, each serving a "
                f"group of equal size; possible near it: {low}, {low + kv_size}; or set kv_heads too",
                dimension=d.name,
                size=d.size,
                target=size,
                kv_heads=kv_size,
            )
        per = size // kv_size
        if per < group.size or (group_wish is not None and per != self._wanted(group_wish, group)):
            raise SizeError(
                f"{d.name} = {size} with {kv_size} key-value heads needs groups of {per}, "
                f"which are {group.size} today" + (" and asked otherwise" if group_wish else ""),
                dimension=d.name,
                size=d.size,
                target=size,
                group=per,
            )
        inner = {t: n for t, n in ((kv, kv_size), (group, per)) if n != t.size}
        return size, inner

    @staticmethod
    def _wanted(wish: Wish | None, term: Term) -> int:
        if wish is None:
            return term.size
        size, _ = wanted(wish.target, term.size)
        refuse_shrinking(wish.dimension, size)
        return size


HEADS = Heads(
    "heads", ("heads", "kv_heads", "group"), "more attention heads; their output rows start at zero"
)
