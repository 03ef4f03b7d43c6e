"""The graph and what knows only graphs: axes, dimensions, content, plans, recipes of weights."""
