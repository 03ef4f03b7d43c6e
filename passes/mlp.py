"""MLP width: new hidden units of a feed-forward block, gated or plain (arXiv:2308.06103 section 3.1).

W1 -> [W1, M], b1 -> [b1, m], W2 -> [W2; 0]: new units may hold anything, and their rows of W2 are zero.
A gated block has two first projections; a mixture grows the width of all its experts.
"""

from meristem.passes.base import WidthPass

MLP = WidthPass(
    "mlp", ("mlp", "expert_mlp"), "more hidden units; their outgoing weights start at zero"
)
