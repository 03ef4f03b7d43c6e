"""Orders of a deeper stack: which block each of its blocks is a copy of.

Copies that compute at once do not preserve the function; what they change is measured. The old blocks are
among the new ones in their order, so an order is also a list of copies between them.
"""

from __future__ import annotations

from collections.abc import Callable

from meristem.rewrite.errors import MeristemError, SizeError

Order = Callable[[int, int], list[int]]


def whole(n: int, target: int) -> list[int]:
    """The stack on top of itself, 0 1 2 0 1 2: G_stack (arXiv:2405.15319), progressive stacking."""
    return [i % n for i in range(target)]


def interleave(n: int, target: int) -> list[int]:
    """Every block followed by its copies, 0 0 1 1 2 2, as evenly as the numbers allow."""
    return [i * n // target for i in range(target)]


def middle(n: int, target: int) -> list[int]:
    """The middle of n / b pieces of b = target - n blocks twice: MIDAS (arXiv:2409.19044).

    Raises SizeError where b does not divide n.
    """
    size = target - n
    if n % size:
        fits = [n + b for b in range(1, n + 1) if n % b == 0]
        raise SizeError(
            f"the middle of {n} blocks in pieces of {size} is none: the number of new blocks divides {n}; "
            f"possible: {', '.join(map(str, fits))}",
            size=n,
            target=target,
            possible=fits,
        )
    end = -(-(n // size) // 2) * size
    return [*range(end), *range(end - size, end), *range(end, n)]


def overlap(n: int, target: int) -> list[int]:
    """Two copies, the first without its last m blocks, the second without its first: SOLAR
    (arXiv:2312.15166), target = 2 (n - m).

    Raises SizeError for odd targets and those beyond 2 n.
    """
    if target % 2 or target > 2 * n:
        fits = list(range(n + 2 - n % 2, 2 * n + 1, 2))
        raise SizeError(
            f"two overlapping halves of {n} blocks are an even number, at most {2 * n}; possible: "
            f"{', '.join(map(str, fits))}",
            size=n,
            target=target,
            possible=fits,
        )
    kept = target // 2
    return [*range(kept), *range(n - kept, n)]


ORDERS: dict[str, Order] = {f.__name__: f for f in (whole, interleave, middle, overlap)}


def copies(name: str, n: int, target: int) -> list[tuple[int, int]]:
    """(before which old block, of which one) of every copy, in their order in the deeper stack."""
    if name not in ORDERS:
        raise MeristemError(f"order={name!r} is not known; choose from {', '.join(ORDERS)}")
    out, old = [], 0
    for source in ORDERS[name](n, target):
        if source == old:
            old += 1
        else:
            out.append((old, source))
    return out
