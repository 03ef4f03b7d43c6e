"""The table of docs/benchmarks.md, from stored results."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The median of paired runs may be so much above 1.
LIMIT = 1.03
MARKED = re.compile(
    r"(<!-- runtime -->\n).*?(<!-- end of runtime -->)", re.DOTALL
)  # what ``write`` replaces
# What ONNX Runtime puts in place of several operators; the rest of its graph is what was written.
FUSED = re.compile(r"^com\.microsoft(\.nchwc)?\.|^Fused|^Gelu$|^LayerNormalization$")
# What decompositions make of the same operators: views of reshapes, copies of dropouts in eval mode.
RENAMED = {
    "aten.view.default": "aten.reshape.default",
    "aten._unsafe_view.default": "aten.reshape.default",
    "aten.clone.default": "aten.dropout.default",
}
# Checks, which compute nothing.
IDLE = {"aten._assert_tensor_metadata.default"}
WAYS = {
    "through torch": "ONNX file, grown in torch",
    "through ONNX": "ONNX file, grown as a file",
    "module": "torch module",
}


def write(stored: Sequence[dict[str, Any]], page: Path) -> None:
    """Put the table between two marks of the page."""
    text = page.read_text()
    if not MARKED.search(text):
        raise RuntimeError(f"{page.name} has no place for the table")
    page.write_text(MARKED.sub(lambda m: f"{m[1]}{table(stored)}\n{m[2]}", text))


def table(stored: Sequence[dict[str, Any]]) -> str:
    """Latency, memory and operators against the native model, then the fusions."""
    if not stored:
        return "Nothing is stored yet."
    head = (
        "| model | grown by | as | latency | 95 % | ms | memory | operators | after fusion |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    rows = [row(r, way) for r in stored for way in r["ways"]]
    return "\n".join([facts(stored), "", head, *rows, "", *fusions(stored)])


def facts(stored: Sequence[dict[str, Any]]) -> str:
    m = stored[0]["machine"]
    packages = ", ".join(f"{n} {v}" for n, v in m.items() if n not in ("python", "system", "cores"))
    pairs = sorted({w["latency"]["pairs"] for r in stored for w in r["ways"].values()})
    return (
        f"Python {m['python']}, {packages}; {m['system']}, one thread; {', '.join(map(str, pairs))} pairs, "
        f"seed {stored[0]['seed']}."
    )


def row(r: dict[str, Any], way: str) -> str:
    """One line: everything as grown / native."""
    w = r["ways"][way]
    t = w["latency"]
    low, high = t["interval"]
    ms = " / ".join(f"{1000 * s:.2f}" for s in t["seconds"])
    cells = [
        r["family"], f"`{r['method']}`", WAYS[way], verdict(r, t["median"]),
        f"{low:.3f} to {high:.3f}", ms, verdict(r, ratio(w["memory"])), same(w["written"]),
        same(w["optimised"]) if "optimised" in w else "",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def verdict(r: dict[str, Any], median: float) -> str:
    """A ratio, with a word where it is above the limit."""
    word = "" if median <= LIMIT else " (pays)" if r["pays"] else " (MISSED)"
    return f"{median:.3f}{word}"


def ratio(memory: Sequence[Sequence[int]]) -> float:
    """Median by median."""
    grown, native = (sorted(m)[len(m) // 2] for m in memory)
    return grown / native


def same(counts: Sequence[dict[str, int]]) -> str:
    """How many operators, or by what they differ."""
    grown, native = map(_counted, counts)
    if grown == native:
        return f"the same {sum(grown.values())}"
    sides = ((grown - native, "more"), (native - grown, "less"))
    parts = [f"{words(short(c))} {word}" for c, word in sides if c]
    return f"{sum(grown.values())} instead of {sum(native.values())}: {'; '.join(parts)}"


def _counted(counts: dict[str, int]) -> Counter[str]:
    """Operators under one name where a decomposition only renames them."""
    out: Counter[str] = Counter()
    for name, n in counts.items():
        if name not in IDLE:
            out[RENAMED.get(name, name)] += n
    return out


def short(counts: Mapping[str, int]) -> dict[str, int]:
    """Without the packet and the overload: ``aten.mean.dim`` is ``mean``."""
    return {n.split(".")[1] if n.startswith("aten.") else n: c for n, c in sorted(counts.items())}


def fused(counts: dict[str, int]) -> dict[str, int]:
    """What ONNX Runtime fused."""
    return {n.rpartition(".")[2]: c for n, c in counts.items() if FUSED.match(n)}


def fusions(stored: Sequence[dict[str, Any]]) -> list[str]:
    """How often each fusion fired on the grown file and on the native one."""
    out = [
        "| model | fused by | on the grown file | on the native file |",
        "|---|---|---|---|",
    ]
    for r in stored:
        for way in ("through torch", "through ONNX"):
            w = r["ways"][way]
            pairs = [("ONNX Runtime", [fused(c) for c in w["optimised"]])]
            if "transformers" in w:
                pairs.append(("its optimizer of transformers", w["transformers"]))
            for name, (grown, native) in pairs:
                out.append(f"| {r['family']}, {way} | {name} | {words(grown)} | {words(native)} |")
    return out


def words(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {c}" for n, c in counts.items()) or "nothing"


__all__ = ["LIMIT", "fused", "same", "table", "write"]
