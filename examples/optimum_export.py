"""A saved model of transformers that grows on its way through Optimum's export to ONNX.

    python examples/optimum_export.py [folder]

It needs an environment in which Optimum is installed (docs/integrations/optimum.md). The class and its
config are the user's: what is written is a folder that ``from_pretrained`` loads, and one that ``ORTModel``
does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import BertConfig, BertForSequenceClassification

from meristem.integrations import main_export


def small() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=3,
    )
    return BertForSequenceClassification(config).eval()


def main(folder: str | Path) -> None:
    folder = Path(folder)
    model = small()
    model.save_pretrained(folder / "small")
    exported = main_export(
        folder / "small",
        folder / "onnx",
        {"mlp@*layer*": "x2"},  # the pooler, an MLP too, has no field for its size
        task="text-classification",
        pretrained=folder / "large",
    )
    print(exported.grown.plan.explain().partition("proof:")[0].strip())
    print("config:", exported.grown.config)
    for name, report in exported.reports.items():
        print(f"{name}: {report}")

    tokens = torch.randint(0, 100, (2, 9))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    inputs["token_type_ids"] = torch.zeros_like(tokens)
    large = BertForSequenceClassification.from_pretrained(folder / "large").eval()
    deployed = ORTModelForSequenceClassification.from_pretrained(folder / "onnx")
    with torch.no_grad():
        before = model(**inputs).logits
        for what, one in (("from_pretrained", large), ("ORTModel", deployed)):
            error = (one(**inputs).logits - before).abs().max()
            print(f"{what}: differs by {error:.0e} of {before.abs().max():.1f}")


if __name__ == "__main__":
    given = sys.argv[1:2]
    main(given[0] if given else tempfile.mkdtemp(prefix="meristem-"))
