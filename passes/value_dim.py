"""Value size of attention heads (arXiv:2308.06103 section 3.3).

Each head's value projection gains rows, which may hold anything; the output projection gains columns
inside each head's piece, which are zero.
"""

from meristem.passes.base import WidthPass

VALUE_DIM = WidthPass(
    "value_dim", ("value_dim",), "wider values in every head; their output columns start at zero"
)
