"""Measuring that a grown model computes what its source computed."""
