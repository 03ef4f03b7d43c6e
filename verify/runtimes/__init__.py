"""The runtimes that verification knows: one file each, and this table of them."""

from __future__ import annotations

from collections.abc import Sequence

from meristem.rewrite.errors import RuntimeUnavailable
from meristem.verify.runtimes import compiled, eager, evaluator, packaged, session
from meristem.verify.runtimes.providers import CPU, mixed_installation, provider_names
from meristem.verify.runtimes.session import Session
from meristem.verify.runtimes.table import LEVELS, Artifacts, Runtime, Setting

RUNTIMES: dict[str, Runtime] = {
    m.ROW.name: m.ROW for m in (session, eager, compiled, packaged, evaluator)
}


def chosen(names: str | Sequence[str]) -> list[Runtime]:
    """Rows of the table by name, each once. Raises RuntimeUnavailable for a name that is not there."""
    given = [names] if isinstance(names, str) else list(names)
    for name in given:
        if name not in RUNTIMES:
            raise RuntimeUnavailable(
                f"runtime={name!r} is not known; choose from {', '.join(RUNTIMES)}", runtime=name
            )
    if not given:
        raise RuntimeUnavailable(f"no runtime is given; choose from {', '.join(RUNTIMES)}")
    return [RUNTIMES[n] for n in dict.fromkeys(given)]


__all__ = [
    "CPU",
    "LEVELS",
    "RUNTIMES",
    "Artifacts",
    "Runtime",
    "Session",
    "Setting",
    "chosen",
    "mixed_installation",
    "provider_names",
]
