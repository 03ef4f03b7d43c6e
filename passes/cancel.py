"""Depth by halves that cancel: new blocks are zero with weights that are not (LEMON, arXiv:2310.07999).

Along inner axes of the new block the second half repeats the first, and what is next to the sum holds
opposite halves. Sizes are those of ``layers``; what weights hold follows from the graph
(``rewrite.cancel``).
"""

from meristem.passes.layers import LayersPass

CANCEL = LayersPass("cancel", ("layers",), "more blocks, whose halves cancel at first")
