"""Every other width: channels, ranks of factorised layers, projections.

Nothing about these kinds is special to the planner: new units may hold anything where their consumer's
weights are zero, or are zero where the consumer is nonlinear in all of them.
"""

from meristem.passes.base import WidthPass

WIDTH = WidthPass(
    "width",
    ("channels", "rank", "width"),
    "any other axis that the analysis finds free",
)
