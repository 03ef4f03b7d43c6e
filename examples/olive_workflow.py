"""An Olive workflow that grows a model between two passes of Olive's own.

    python examples/olive_workflow.py [folder]

It makes the model and the two JSON files, and runs

    olive run --config workflow.json --package-config packages.json

The growth is measured twice: by the pass, before Olive gets the file, and here, on what the workflow gave.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from olive.cli.launcher import main as olive
from torch import Tensor, nn

import meristem
from meristem.integrations.olive_pass import write_package_config


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    def __init__(self, words: int = 100, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(2)))
        self.norm, self.classes = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.classes(self.norm(self.blocks(self.words(tokens))).mean(1))


def main(folder: str | Path) -> None:
    folder = Path(folder)
    torch.manual_seed(0)
    tokens = torch.randint(0, 100, (2, 7))
    source = folder / "encoder.onnx"
    axes = ({0: "batch", 1: "length"},)
    torch.onnx.export(Encoder().eval(), (tokens,), source, dynamic_shapes=axes, verbose=False)
    workflow = {
        "input_model": {"type": "ONNXModel", "model_path": str(source)},
        "passes": {
            "fold": {"type": "OnnxPeepholeOptimizer"},
            "grow": {
                "type": "MeristemGrowth",
                "sizes": {"mlp": "x1.5", "heads": 6, "layers": "+1"},
            },
            "fuse": {"type": "OnnxScriptFusion"},
        },
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        "log_severity_level": 3,
    }
    (folder / "workflow.json").write_text(json.dumps(workflow, indent=1))
    write_package_config(folder / "packages.json")
    files = [f"{folder}/workflow.json", "--package-config", f"{folder}/packages.json"]
    olive(["run", "--config", *files])

    plan = meristem.Plan.from_json((folder / "out" / "growth_plan_1.json").read_text())
    print(plan.explain().partition("proof:")[0].strip())
    print(meristem.verify(source, folder / "out" / "model.onnx"))


if __name__ == "__main__":
    given = sys.argv[1:2]
    main(given[0] if given else tempfile.mkdtemp(prefix="meristem-"))
