"""Hidden size: the width of a residual stream (arXiv:2308.06103 section 3.5).

With RMSNorm every writer's new rows are zero, gains are multiplied by sqrt(h/h') and epsilons by h/h'.
With LayerNorm every writer's new rows are the mean of its old ones, which keeps the mean (LEMON's
average padding). Where a norm itself writes the stream (post-norm), its statistics are taken over the
old coordinates only.
"""

from meristem.passes.base import WidthPass

HIDDEN = WidthPass("hidden", ("hidden",), "a wider residual stream; norms keep their statistics")
