"""Tracing and loading: from a native program to the view."""
