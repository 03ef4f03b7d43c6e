"""Which nodes ran on which provider, read from the profile of a run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Placement:
    """What one provider ran of a model in one setting: so many nodes, and how many of each operator."""

    setting: str
    provider: str
    nodes: int
    operators: dict[str, int]
    model: str = "grown"

    def __str__(self) -> str:
        ordered = sorted(self.operators.items(), key=lambda kv: (-kv[1], kv[0]))
        kinds = ", ".join(f"{n} {k}" for k, n in ordered)
        return f"{self.setting}, {self.model}: {self.nodes} nodes on {self.provider} ({kinds})"


def read_profile(path: Path, setting: str, model: str) -> list[Placement]:
    """The placements that a profile of ONNX Runtime tells of: every node that ran, once."""
    found: dict[str, dict[str, str]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        facts = event.get("args", {})
        if event.get("cat") == "Node" and facts.get("provider"):
            key = f"{facts.get('node_index', '')} {event['name'].removesuffix('_kernel_time')}"
            found.setdefault(facts["provider"], {})[key] = facts.get("op_name", "?")
    return [
        Placement(setting, provider, len(nodes), dict(Counter(nodes.values())), model)
        for provider, nodes in sorted(found.items())
    ]


__all__ = ["Placement", "read_profile"]
