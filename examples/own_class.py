"""Grow a model and load the result into its own class, constructed with the larger sizes.

With ``compensate="weights"`` nothing but weights changes: scales and epsilons stay what the class
computes from its sizes, so the class needs to know nothing of meristem.

    python examples/own_class.py
"""

from __future__ import annotations

from dataclasses import replace

import torch

import meristem
from meristem.demo_model import Decoder, Sizes

SMALL = Sizes(hidden=32, layers=2, heads=4, kv_heads=2, qk_dim=8, value_dim=8, mlp=48)
LARGE = replace(SMALL, hidden=48, layers=3, heads=6, qk_dim=12, value_dim=10, mlp=80)
KINDS = ("hidden", "layers", "heads", "qk_dim", "value_dim", "mlp")

# float32 through three blocks; the two models add the same numbers in another order.
TOLERANCE = 1e-4


def main() -> None:
    torch.manual_seed(0)
    small = Decoder(SMALL).eval()
    tokens = torch.randint(0, 256, (2, 24))
    model = meristem.trace(small, (tokens,))
    sizes = {kind: getattr(LARGE, kind) for kind in KINDS}
    grown = meristem.grow(model, sizes, compensate="weights")
    large = Decoder(LARGE).eval()
    large.load_state_dict(grown.state_dict(), strict=True)
    with torch.no_grad():
        error = (large(tokens) - small(tokens)).abs().max().item()
    print(
        f"{model.parameters:,} -> {grown.parameters:,} parameters, largest difference {error:.1e}"
    )
    assert error < TOLERANCE


if __name__ == "__main__":
    main()
