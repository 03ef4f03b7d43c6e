"""The graph and everything that knows only graphs: axes, dimensions, content, plans, recipes of weights."""
